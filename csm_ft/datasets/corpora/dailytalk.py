"""DailyTalk: data/12/3_1_d12.wav, the turn 3 of speaker 1 in the dialogue 12, its text beside it.

The emotion of each turn stands in metadata.json, by dialogue and turn.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from csm_ft.console import shorten
from csm_ft.datasets.corpora.named import Clip, Columns, find_names, read_clips, tell_all
from csm_ft.datasets.labels import EMOTIONS
from csm_ft.datasets.sounds import is_sound
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_NAME = re.compile(r"(\d+)_(\d+)_d(\d+)", re.IGNORECASE)
_METADATA = "metadata.json"
_LABELS = EMOTIONS["dailytalk"]
_LONGEST_SEC = 60.0  # of a turn, which may be several sentences

_Turn = tuple[int, int]  # numbers of the dialogue and of the turn in it


def is_dailytalk(tree: Tree) -> bool:
    """Tell whether there is a turn by its name, in the folder of its dialogue."""
    names = ((path, _NAME.fullmatch(path.stem)) for path in tree.files if is_sound(path.name))
    return any(name is not None and path.parent.name == name[3] for path, name in names)


def read_dailytalk(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per turn, in the order of the dialogues.

    A turn that is missing from a dialogue is a record, too: those around it do not follow upon each
    other. Dialogues without any sound are only counted.
    """
    labels = _labels(tree, tell)
    turns: dict[str, _Turn] = {}  # path -> its place
    clips: list[Clip] = []
    for name, paths in find_names(tree, _NAME).items():
        turn = int(name[3]), int(name[1])
        turns |= {str(path): turn for path in paths}
        clips.append(Clip(paths, _columns(name[2], turn, paths[0], labels)))
    records = [(turns[where], where, row) for where, row in read_clips(tree, clips, _LONGEST_SEC)]
    there = set(turns.values())
    dialogues = {dialogue for dialogue, _ in there}
    missing = sorted(turn for turn in labels if turn not in there and turn[0] in dialogues)
    reason = f"{_METADATA} lists it, but there is no sound; fetch it again"
    for turn in missing:
        where = f"turn {turn[1]} of dialogue {turn[0]}"
        records.append((turn, where, Unreadable(f"{where}: {reason}")))
    tell_all(tell, _describe(labels, there, dialogues))
    for _, where, row in sorted(records, key=lambda record: record[:2]):
        yield where, row


def _columns(speaker: str, turn: _Turn, sound: Path, labels: Mapping[_Turn, str]) -> Columns | str:
    label = labels.get(turn, "")
    emotion = _LABELS.get(label.strip().lower(), "")
    if label and not emotion:
        return f"{_METADATA} says {show(label)}, which is no emotion of the set; correct it"
    path = sound.with_suffix(".txt")
    try:
        text = " ".join(read_text(path, MetadataError).split())
    except FileNotFoundError:
        return f"no transcript; {path.name} is missing beside it"
    except (MetadataError, OSError) as error:
        return f"its transcript cannot be read: {error}"
    return {
        "text": text,
        "speaker": speaker,
        "conversation": str(turn[0]),
        "turn": str(turn[1]),
        "emotion": emotion,
        "language": "en",
        "source": "dailytalk",
    }


def _labels(tree: Tree, tell: Tell) -> dict[_Turn, str]:
    """Return the label of each turn; nothing, which is told, without metadata.json.

    MetadataError where it is none of DailyTalk.
    """
    path = next((path for path in tree.files if path.name == _METADATA), None)
    if path is None:
        tell(
            f"DailyTalk: there is no {_METADATA} below {tree.folder}: emotions are not known; name"
            " the folder that holds it and data/"
        )
        return {}
    try:
        return dict(_read_labels(json.loads(read_text(path, MetadataError))))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise MetadataError(
            f"{path}: is not the {_METADATA} of DailyTalk, dialogues of turns with their emotion"
            f" ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _read_labels(dialogues: Any) -> Iterator[tuple[_Turn, str]]:
    for dialogue, turns in dialogues.items():
        for turn, facts in turns.items():
            yield (int(dialogue), int(turn)), str(facts["emotion"])


def _describe(labels: Mapping[_Turn, str], there: set[_Turn], dialogues: set[int]) -> Iterator[str]:
    """Yield what of the set is missing, "" for nothing."""
    if not labels:
        return
    unheard = sorted({dialogue for dialogue, _ in labels} - dialogues)
    if unheard:
        yield (
            f"DailyTalk: not the whole set: {len(unheard)} dialogues of {_METADATA} have no sound:"
            f" {shorten(map(str, unheard))}"
        )
    unlisted = sorted(there - labels.keys())
    if unlisted:
        names = shorten(f"{turn} of {dialogue}" for dialogue, turn in unlisted)
        yield f"DailyTalk: {len(unlisted)} turns are not in {_METADATA}: no emotion: {names}"
