"""What can be read but is implausible: clips to look at before anything is trained on them.

A note never rejects a row. The kinds of notes are in note_kinds.py.
"""

from collections.abc import Sequence
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.config.notes import NoteLimits
from csm_ft.errors import NotesError
from csm_ft.pretokenize.note_kinds import (
    KINDS,
    Note,
    Place,
    shorten,
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


def _line(note: Note) -> str:
    return f"{note.where}  {Path(note.path).name}  {note.value}  {shorten(note.text)}"
