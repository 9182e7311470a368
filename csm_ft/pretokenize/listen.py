"""The most suspicious clips of a token file, through the codec, on a page to listen to."""

import json
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

from csm_ft.atomic import disk_errors, whole_folder, write_whole
from csm_ft.config.notes import NoteLimits
from csm_ft.data import audio
from csm_ft.data.split import Store
from csm_ft.errors import ConfigError
from csm_ft.families.base import Encoder
from csm_ft.generate.recordings import measure
from csm_ft.pretokenize.note_kinds import KINDS, Note, Place
from csm_ft.pretokenize.notes import Found, find_notes
from csm_ft.report.spoken import build_index


def write_listening_page(store: Store, encoder: Encoder, num_clips: int, folder: Path) -> str:
    """Write up to `num_clips` clips with notes and index.html into `folder`; return a summary.

    Nothing is written when there is no note. ConfigError for a family that keeps no sound.
    """
    found = find_notes(_places(store), NoteLimits())
    chosen = _worst(found, num_clips)
    if not chosen:
        return f"{store.path}: no clip looks suspicious; there is nothing to listen to"
    reasons = _reasons(found)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as draft:
        for number, note in enumerate(chosen, start=1):
            stem = draft / f"{number:02d}-{note.split}-{note.index}"
            _write_clip(stem, store, encoder, note, reasons[note.split, note.index])
        page = build_index(draft, title=f"{store.path.name}: clips to look at")
    num_noted = len(reasons)
    return f"{folder / page.name}: {len(chosen)} of {num_noted} clips that look suspicious"


def _places(store: Store) -> Sequence[Place]:
    places: list[Place] = []
    for name, split in store.splits.items():
        places += [Place(name, i, f"{name} clip {i}", split.clip(i)) for i in range(len(split))]
    return places


def _worst(found: Found, num_clips: int) -> list[Note]:
    """Return the worst clip of each kind, then the second worst of each, and so on."""
    in_turn = chain.from_iterable(zip_longest(*found.values()))
    clips: dict[tuple[str, int], Note] = {}
    for note in in_turn:
        if note is not None:
            clips.setdefault((note.split, note.index), note)
    return list(clips.values())[:num_clips]


def _reasons(found: Found) -> dict[tuple[str, int], list[str]]:
    reasons: dict[tuple[str, int], list[str]] = {}
    for note in chain.from_iterable(found.values()):
        line = f"{KINDS[note.kind].title}: {note.value}"
        reasons.setdefault((note.split, note.index), []).append(line)
    return reasons


def _write_clip(
    stem: Path, store: Store, encoder: Encoder, note: Note, reasons: Sequence[str]
) -> None:
    split = store.splits[note.split]
    clip = split.clip(note.index)
    wave = encoder.decode(split.arrays(note.index))
    if wave is None:
        raise ConfigError(f"{store.path}: the family {store.info.family} keeps no sound to decode")
    audio.save(stem.with_suffix(".wav"), wave, encoder.sample_rate_hz)
    facts = {
        "clip_id": clip.id,
        "text": clip.text,
        "speaker": clip.speaker,
        "notes": [*reasons, f"{note.where}: {clip.source}, from {clip.start_sec:.2f} s"],
        **measure(wave, encoder.sample_rate_hz, clip.text),
    }
    content = json.dumps(facts, ensure_ascii=False).encode(errors="backslashreplace")
    write_whole(stem.with_suffix(".json"), content)
