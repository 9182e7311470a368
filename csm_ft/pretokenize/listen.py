"""The most suspicious clips of a token file, through the codec, on a page to listen to."""

import json
import math
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

from csm_ft.atomic import disk_errors, whole_folder, write_whole
from csm_ft.config.notes import NoteLimits
from csm_ft.data import audio
from csm_ft.data.split import Store
from csm_ft.errors import ConfigError
from csm_ft.families.encoder import Encoder
from csm_ft.generate.recordings import measure
from csm_ft.pretokenize.note_kinds import KINDS, Place, letters, pace, pace_words, usual_pace
from csm_ft.pretokenize.notes import Found, find_notes
from csm_ft.report.spoken import build_index


def write_listening_page(store: Store, encoder: Encoder, num_clips: int, folder: Path) -> str:
    """Write the `num_clips` most suspicious clips and index.html into `folder`; return a summary.

    Those with notes come first, then those of the most unusual pace. ConfigError for a family that
    keeps no sound.
    """
    places = _places(store)
    found = find_notes(places, NoteLimits())
    noted = _worst(found, places)
    chosen = [*noted, *_unusual(places, noted)][:num_clips]
    reasons, usual = _reasons(found), usual_pace(places)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as draft:
        for number, place in enumerate(chosen, start=1):
            stem = draft / f"{number:0{max(2, len(str(len(chosen))))}d}-{place.split}-{place.index}"
            why = reasons.get((place.split, place.index)) or [pace_words(place.clip, usual)]
            _write_clip(stem, store, encoder, place, why)
        page = build_index(draft, title=f"{store.path.name}: clips to look at")
    num_noted = min(len(noted), len(chosen))
    return (
        f"{folder / page.name}: {len(chosen)} clips, {num_noted} of the {len(noted)} with notes"
        " among them"
    )


def _places(store: Store) -> Sequence[Place]:
    places: list[Place] = []
    for name, split in store.splits.items():
        places += [Place(name, i, f"{name} clip {i}", split.clip(i)) for i in range(len(split))]
    return places


def _worst(found: Found, places: Sequence[Place]) -> list[Place]:
    """Return the worst clip of each kind, then the second worst of each, and so on."""
    place_of = {(place.split, place.index): place for place in places}
    in_turn = chain.from_iterable(zip_longest(*found.values()))
    noted = dict.fromkeys((note.split, note.index) for note in in_turn if note is not None)
    return [place_of[key] for key in noted]


def _unusual(places: Sequence[Place], noted: Sequence[Place]) -> list[Place]:
    """Return the clips without notes, those farthest from the usual pace first."""
    usual = usual_pace(places)

    def distance(place: Place) -> float:
        return abs(math.log(pace(place.clip) / usual)) if letters(place.clip.text) else 0.0

    known = {(place.split, place.index) for place in noted}
    others = [place for place in places if (place.split, place.index) not in known]
    return sorted(others, key=distance, reverse=True)


def _reasons(found: Found) -> dict[tuple[str, int], list[str]]:
    reasons: dict[tuple[str, int], list[str]] = {}
    for note in chain.from_iterable(found.values()):
        line = f"{KINDS[note.kind].title}: {note.value}"
        reasons.setdefault((note.split, note.index), []).append(line)
    return reasons


def _write_clip(
    stem: Path, store: Store, encoder: Encoder, place: Place, reasons: Sequence[str]
) -> None:
    clip = place.clip
    wave = encoder.decode(store.splits[place.split].arrays(place.index))
    if wave is None:
        raise ConfigError(f"{store.path}: the family {store.info.family} keeps no sound to decode")
    audio.save(stem.with_suffix(".wav"), wave, encoder.sample_rate_hz)
    facts = {
        "clip_id": clip.id,
        "text": clip.text,
        "speaker": clip.speaker,
        "notes": [*reasons, f"{place.where}, {Path(clip.source).name} at {clip.start_sec:.1f} s"],
        **measure(wave, encoder.sample_rate_hz, clip.text),
    }
    content = json.dumps(facts, ensure_ascii=False).encode(errors="backslashreplace")
    write_whole(stem.with_suffix(".json"), content)
