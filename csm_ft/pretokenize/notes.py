"""What can be read but is implausible: clips to look at before anything is trained on them.

A note never rejects a row. The kinds of notes are in note_kinds.py.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.config.notes import NoteLimits
from csm_ft.errors import NotesError
from csm_ft.pretokenize.note_kinds import (
    KINDS,
    Note,
    Place,
    letters,
    pace,
    pace_words,
    shorten,
    usual_pace,
)

_MAX_SHOWN = 3  # rows of each kind on the console; the file has them all

Found = dict[str, list[Note]]  # by kind in the order of KINDS, the worst first


def find_notes(places: Sequence[Place], limits: NoteLimits) -> Found:
    """Return the notes on the clips of all splits; kinds without a note are left out."""
    found: Found = {}
    for name, kind in KINDS.items():
        notes = sorted(kind.find(places, limits), key=lambda note: -note.weight)
        if notes:
            found[name] = notes
    return found


def count_notes(found: Found) -> dict[str, int]:
    """Return the number of notes of each kind."""
    return {kind: len(notes) for kind, notes in found.items()}


def describe_notes(found: Found, num_unmeasured: int) -> list[str]:
    """Return the section of the report as lines of text; none if there is nothing to say."""
    lines = []
    for kind, notes in found.items():
        lines.append(f"{len(notes)} x {KINDS[kind].title}; {KINDS[kind].way_out}")
        lines += [f"    {_line(note)}" for note in notes[:_MAX_SHOWN]]
        if len(notes) > _MAX_SHOWN:
            lines.append(f"    ... and {len(notes) - _MAX_SHOWN} more")
    if num_unmeasured:
        lines.append(
            f"{num_unmeasured} clips were encoded by an earlier version and not measured (level,"
            " silence, clipping); another --output measures them"
        )
    return ["", "Look at these", *lines] if lines else []


def write_notes(path: Path, found: Found) -> None:
    """Write all notes to `path`, one JSON object per line; remove it when there are none."""
    lines = [note.to_json() for notes in found.values() for note in notes]
    if lines:
        write_whole(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)  # of an earlier run


def check_notes(path: Path, found: Found, output: str) -> None:
    """Raise NotesError when there is any note, for --strict_notes."""
    total = sum(count_notes(found).values())
    if total:
        raise NotesError(
            f"{total} notes, --strict_notes allows none. They are in {path}; fix the rows, change"
            f" the limits (--note_...), or leave out --strict_notes. {output} was not written"
        )


def most_suspicious(places: Sequence[Place], found: Found, limit: int) -> list[tuple[Place, str]]:
    """Return up to `limit` clips with what is noted on them, the worst of each kind in turn.

    Where fewer have notes, those follow whose characters per second are least usual.
    """
    at = {(place.split, place.index): place for place in places}
    whys: dict[tuple[str, int], list[str]] = defaultdict(list)
    for rank in range(max(map(len, found.values()), default=0)):
        for notes in found.values():
            for note in notes[rank : rank + 1]:
                whys[note.split, note.index].append(f"{KINDS[note.kind].title}: {note.value}")
    chosen = [(at[key], "; ".join(why)) for key, why in whys.items()]
    usual = usual_pace(places)
    rest = [place for key, place in at.items() if key not in whys and letters(place.clip.text)]
    rest.sort(key=lambda place: -abs(math.log(pace(place.clip) / usual)))
    chosen += [(place, f"no note; {pace_words(place.clip, usual)}") for place in rest]
    return chosen[:limit]


def _line(note: Note) -> str:
    return f"{note.where}  {Path(note.path).name}  {note.value}  {shorten(note.text)}"
