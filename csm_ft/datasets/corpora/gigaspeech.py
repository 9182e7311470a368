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
        try:
            sound = sounds.get(nfc(Path(recording["path"]).stem))
            if sound is None:
                unheard[recording["aid"]] = None
                continue
            for segment in recording["segments"]:
                subsets = (*segment.get("subsets", ()), *recording.get("subsets", ()))
                yield f"{path} {segment['sid']}", _row(segment, sound, subsets)
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"lacks what the list of GigaSpeech has ({error!r}); fetch it again"
            yield f"{path} recording {place}", Unreadable(reason)
    tell_unheard(tell, "GigaSpeech", unheard)


def _row(
    segment: Mapping[str, Any], sound: Path, subsets: Sequence[str]
) -> dict[str, Any] | Unreadable:
    words = [_MARKS.get(word, word) for word in segment["text_tn"].split()]
    marks = [word for word in words if word in _NO_SPEECH]
    if marks:
        return Unreadable(f"has sound that is no speech, {show(marks[0])}; left out", str(sound))
    return {
        "path": str(sound),
        "text": glue(" ".join(words)),
        "start": segment["begin_time"],
        "end": segment["end_time"],
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
