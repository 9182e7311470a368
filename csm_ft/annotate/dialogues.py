"""Dialogues that are to be heard: those with words of this program and options are left out."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csm_ft.annotate.align import Turn
from csm_ft.annotate.config import AnnotateConfig
from csm_ft.annotate.result import what_is_there
from csm_ft.annotate.sounds import sides_of
from csm_ft.annotate.transcripts import find_transcript, read_transcript
from csm_ft.atomic import disk_errors
from csm_ft.console import console
from csm_ft.data.rows import Rejection
from csm_ft.errors import AudioError, ConfigError, MetadataError
from csm_ft.segment.hear import Recording


@dataclass
class Dialogue:
    """A sound file, the channels that are heard, and where its words go."""

    sound: Path
    words_path: Path
    sides: Sequence[Recording]  # left, or left and right
    turns: Sequence[Turn] = ()  # of its transcript
    made_by: Mapping[str, Any] = field(default_factory=dict)


def place_words(config: AnnotateConfig, sounds: Sequence[Path]) -> dict[Path, Path]:
    """Return where the words of each sound go; ConfigError where two go to one file."""
    folder = Path(config.words_folder) if config.words_folder else None
    places = {one: (folder or one.parent) / f"{one.stem}.json" for one in sounds}
    twice = [place for place, count in Counter(places.values()).items() if count > 1]
    if twice:
        both = ", ".join(str(one) for one, place in places.items() if place == twice[0])
        raise ConfigError(
            f"{twice[0]}: would hold the words of {both}; rename one, or annotate folder by folder"
        )
    if folder:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    return places


def open_dialogues(
    config: AnnotateConfig,
    places: Mapping[Path, Path],
    made_by: Mapping[str, Any],
    problems: list[Rejection],
) -> tuple[list[Dialogue], Counter[str]]:
    """Return the dialogues that are to be heard, and how many of the others there are."""
    counts = Counter[str]()
    dialogues: list[Dialogue] = []
    for sound, place in places.items():
        try:
            dialogue = _open(config, sound, place, made_by)
        except (AudioError, MetadataError) as error:
            reason = str(error).removeprefix(f"{sound}: ")
            problems.append(Rejection(str(sound), str(sound), "", reason))
            continue
        there = what_is_there(place, dialogue.made_by)
        if there == "ours" or (there == "theirs" and not config.overwrite):
            counts[there] += 1
            continue
        counts[there] += there == "ours, other options"
        counts["with transcript"] += bool(dialogue.turns)
        dialogues.append(dialogue)
    if counts["ours, other options"]:
        console.print(
            f"{counts['ours, other options']} were made with other options: they are made again",
            markup=False,
        )
    if config.transcripts and dialogues:
        console.print(
            f"{counts['with transcript']} of {len(dialogues)} have a transcript, which is aligned;"
            " the others are recognised",
            markup=False,
        )
    return dialogues, counts


def _open(config: AnnotateConfig, sound: Path, place: Path, made_by: Mapping[str, Any]) -> Dialogue:
    sides = sides_of(sound)
    given = find_transcript(Path(config.transcripts), sound) if config.transcripts else None
    turns = read_transcript(given, is_mono=len(sides) == 1) if given else []
    facts: dict[str, Any] = {"sound_bytes": sound.stat().st_size, "transcript": ""}
    if given:
        digest = hashlib.blake2b(given.read_bytes(), digest_size=8).hexdigest()
        facts |= {"transcript": given.name, "transcript_hash": digest}
    return Dialogue(sound, place, sides, turns, {**made_by, **facts})
