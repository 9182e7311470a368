"""ESD (Emotional Speech Dataset): 0011_000351.wav, and its texts in 0011.txt."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from csm_ft.console import shorten
from csm_ft.data.text import normalise
from csm_ft.datasets.corpora.named import (
    Clip,
    Columns,
    describe_few,
    describe_missing,
    find_names,
    has_names,
    read_clips,
    tell_all,
)
from csm_ft.datasets.labels import EMOTIONS
from csm_ft.datasets.tables import Unreadable
from csm_ft.datasets.transcripts import is_broken, read_transcripts
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError

_NAME = re.compile(r"(00[01]\d|0020)_(\d{6})")
_LIST = re.compile(r"(00[01]\d|0020)\.txt")
# Tabs between the fields, or blanks.
_LINE = re.compile(r"\s*(\d{4}_\d{6})\s+(\S.*?)\s*")
_SPEAKERS = [f"{number:04}" for number in range(1, 21)]
_MEN = {f"{number:04}" for number in (4, 5, 6, 8, 10, 11, 12, 13, 14, 20)}
_LAST_CHINESE = "0010"
# 350 sentences are spoken with one emotion after the other.
_ORDER, _NUM_SENTENCES = ("neutral", "angry", "happy", "sad", "surprised"), 350
_LAST_VAL, _LAST_TEST = 20, 50  # sentences; the set calls its validation set evaluation
_LABELS = EMOTIONS["esd"]


@dataclass
class _Texts:
    """The list of a speaker."""

    path: Path
    problem: str = ""  # why it cannot be read
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> text, label or ""
    bad_lines: list[int] = field(default_factory=list)


def is_esd(tree: Tree) -> bool:
    """Tell whether there are a list of texts and a sound by their names."""
    has_list = any(_LIST.fullmatch(path.name) for path in tree.files)
    return has_list and has_names(tree, _NAME)


def read_esd(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per sound; the number of a sentence says its emotion and its split."""
    lists = _lists(tree)
    clips = [
        Clip(paths, _columns(name, lists.get(name[1])))
        for name, paths in find_names(tree, _NAME).items()
    ]
    good = [clip.columns for clip in clips if isinstance(clip.columns, dict)]
    speakers = Counter(row["speaker"] for row in good)
    found = {"speakers": speakers, "emotions": Counter(row["emotion"] for row in good)}
    per_speaker = _NUM_SENTENCES * len(_ORDER)
    tell_all(
        tell,
        [
            describe_missing("ESD", found, {"speakers": _SPEAKERS, "emotions": _ORDER}),
            describe_few("ESD", "speakers", speakers, per_speaker),
            *(_differing(name, one) for name, one in lists.items()),
        ],
    )
    for one in lists.values():
        for number in one.bad_lines:
            where = f"{one.path} line {number}"
            yield where, Unreadable("is not `0011_000001 text emotion`; correct it, or drop it")
    yield from read_clips(tree, clips)


def _lists(tree: Tree) -> dict[str, _Texts]:
    """Return the list of each speaker; of several copies one that can be read."""
    lists: dict[str, _Texts] = {}
    for path in tree.files:
        name = _LIST.fullmatch(path.name)
        if name and (name[1] not in lists or lists[name[1]].problem):
            lists[name[1]] = _read_list(path, name[1])
    return lists


def _read_list(path: Path, speaker: str) -> _Texts:
    try:
        lines = read_transcripts(path, _language(speaker)).split("\n")
    except MetadataError as error:
        return _Texts(path, problem=str(error))
    found = _Texts(path)
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match:
            first, _, last = match[2].rpartition(" " if "\t" not in match[2] else "\t")
            label = last.strip().lower()
            is_labelled = bool(first) and label in _LABELS
            text = first if is_labelled else match[2]
            found.texts[match[1]] = (" ".join(text.split()), label if is_labelled else "")
        elif line.strip():
            found.bad_lines.append(number)
    return found


def _columns(name: re.Match[str], texts: _Texts | None) -> Columns | str:
    speaker, number = name[1], int(name[2]) - 1
    if texts is None:
        return f"no transcript; there is no {speaker}.txt: put it below the folder"
    if texts.problem:
        return f"its transcript cannot be read: {texts.problem}"
    if name[0] not in texts.texts or not 0 <= number < _NUM_SENTENCES * len(_ORDER):
        return f"{texts.path.name} has no line for it; add one, or remove the file"
    text, label = texts.texts[name[0]]
    if is_broken(text):
        return f"{texts.path.name} has broken characters in its text, {text!r}; fetch it again"
    emotion, sentence = _ORDER[number // _NUM_SENTENCES], number % _NUM_SENTENCES + 1
    if label and _LABELS[label] != emotion:
        return (
            f"{texts.path.name} says {label}, but number {name[2]} is {emotion}; correct the line,"
            " or drop it"
        )
    return {
        "text": text,
        "speaker": speaker,
        "emotion": emotion,
        "gender": "male" if speaker in _MEN else "female",
        "language": _language(speaker),
        "split": _split(sentence),
        "source": "esd",
    }


def _split(sentence: int) -> str:
    if sentence <= _LAST_VAL:
        return "val"
    return "test" if sentence <= _LAST_TEST else "train"


def _language(speaker: str) -> str:
    return "zh" if speaker <= _LAST_CHINESE else "en"


def _differing(speaker: str, texts: _Texts) -> str:
    """Return how many sentences of a speaker have other words with other emotions, or ""."""
    words: dict[int, set[str]] = {}
    for id_, (text, _) in texts.texts.items():
        sentence = (int(id_[-6:]) - 1) % _NUM_SENTENCES + 1
        words.setdefault(sentence, set()).add(normalise(text))
    differ = [str(sentence) for sentence in sorted(words) if len(words[sentence]) > 1]
    if not differ:
        return ""
    return (
        f"ESD {speaker}: {len(differ)} sentences have other words with other emotions (numbers"
        f" {shorten(differ)})"
    )
