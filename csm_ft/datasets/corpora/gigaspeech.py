"""GigaSpeech: GigaSpeech.json lists recordings of hours with their segments; sounds are opus.

Punctuation stands as words, as <COMMA>; segments without speech as <MUSIC>. Nobody is named.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.datasets.corpora.base import glue, sounds_by_name, tell_unheard
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import nfc, read_text

_LIST = "GigaSpeech.json"
_MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_NO_SPEECH = frozenset({"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"})
_SPLITS = {"{DEV}": "val", "{TEST}": "test"}
_LANGUAGE = "en"


def is_gigaspeech(tree: Tree) -> bool:
    """Tell whether the list stands in the folder, or in one of its folders."""
    return _list_of(tree) is not None


def read_gigaspeech(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per segment of the recordings that are there; the others are counted."""
    path = _list_of(tree)
    assert path is not None, "asked by is_gigaspeech"
    sounds, unheard = sounds_by_name(tree), dict[str, None]()
    for place, recording in enumerate(_recordings(path), start=1):
        where = f"{path} recording {place}"
        try:
            name, segments = Path(recording["path"]).stem, list(recording["segments"])
            of_all = tuple(recording.get("subsets", ()))
        except (KeyError, TypeError, AttributeError) as error:
            yield where, Unreadable(f"lacks {error}, which each has in GigaSpeech; fetch it again")
            continue
        sound = sounds.get(nfc(name))
        if sound is None:
            unheard[name] = None
            continue
        for number, segment in enumerate(segments, start=1):
            yield f"{where} segment {number}", _row(segment, sound, of_all)
    tell_unheard(tell, "GigaSpeech", unheard)


def _row(
    segment: Mapping[str, Any], sound: Path, of_all: Sequence[str]
) -> dict[str, Any] | Unreadable:
    try:
        text: str = segment["text_tn"]
        words = [_MARKS.get(word, word) for word in text.split()]
        times = {"start": segment["begin_time"], "end": segment["end_time"]}
        subsets = (*segment.get("subsets", ()), *of_all)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"lacks {error}, which each has in GigaSpeech; fetch the list again"
        return Unreadable(reason, str(sound))
    marks = [word for word in words if word in _NO_SPEECH]
    if marks:
        return Unreadable(
            f"has sound that is no speech, {show(marks[0])}; left out", str(sound), times
        )
    return {
        "path": str(sound),
        "text": glue(" ".join(words)),
        **times,
        "split": next((_SPLITS[one] for one in subsets if one in _SPLITS), "train"),
        "language": _LANGUAGE,
        "source": "gigaspeech",
    }


def _recordings(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        return json.loads(read_text(path, MetadataError))["audios"]
    except (ValueError, KeyError, TypeError) as error:
        raise MetadataError(
            f"{path}: is not the list of GigaSpeech, an object with audios ({error}); fetch it"
            " again"
        ) from error


def _list_of(tree: Tree) -> Path | None:
    places = (folder / _LIST for folder in (tree.folder, *tree.top))
    return next((place for place in places if place.is_file()), None)
