"""MSP-Podcast: what listeners agreed on in Labels/labels_consensus.csv, Audios/ and Transcripts/.

Versions before 1.12 spell the file labels_concensus, and have it as JSON, too.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from csm_ft.console import shorten
from csm_ft.datasets.corpora.named import Clip, Columns, find_names, read_clips, tell_all
from csm_ft.datasets.labels import EMOTIONS, GENDERS
from csm_ft.datasets.tables import show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_NAME = re.compile(r"MSP-(PODCAST|CONVERSATION)_[\w.-]+", re.IGNORECASE)
_LISTS = re.compile(r"labels_con[cs]ensus\.(csv|json)", re.IGNORECASE)
_KEY, _NEEDED = "FileName", ("EmoClass", "SpkrID", "Gender", "Split_Set")
_LABELS = EMOTIONS["msp-podcast"]
_SPLITS = {"train": "train", "development": "val", "validation": "val"}
_LONGEST_SEC = 60.0

_Facts = Mapping[str, str]


def is_msp_podcast(tree: Tree) -> bool:
    """Tell whether there is the list of labels."""
    return any(_LISTS.fullmatch(path.name) for path in tree.files)


def read_msp_podcast(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per sound; labels without a sound are counted."""
    labels = _read_labels(_list_of(tree))
    texts = {path.stem.upper(): path for path in tree.files if path.suffix == ".txt"}
    clips: list[Clip] = []
    unheard = dict.fromkeys(labels)
    for name, paths in find_names(tree, _NAME).items():
        unheard.pop(name[0], None)
        clips.append(Clip(paths, _columns(name[0], labels.get(name[0]), texts)))
    lines: list[str] = []
    if unheard:
        lines.append(
            f"MSP-Podcast: not the whole set: {len(unheard)} clips with labels have no sound:"
            f" {shorten(unheard)}"
        )
    good = [clip.columns for clip in clips if isinstance(clip.columns, dict)]
    without = Counter(row["emotion"] for row in good)[""]
    if without:
        lines.append(
            f"MSP-Podcast: {without} clips without emotion: listeners chose another one than the"
            " eight of the set (O), or did not agree (X)"
        )
    tell_all(tell, lines)
    yield from read_clips(tree, clips, _LONGEST_SEC)


def _columns(name: str, facts: _Facts | None, texts: Mapping[str, Path]) -> Columns | str:
    if facts is None:
        return "the list of labels has no line for it; add one, or remove the file"
    label = facts["EmoClass"].lower()
    if label not in _LABELS:
        known = " ".join(_LABELS).upper()
        return f"EmoClass {show(facts['EmoClass'])} is none of {known}; correct the list of labels"
    if name not in texts:
        return f"no transcript; there is no {name}.txt: put Transcripts/ below the folder"
    try:
        text = read_text(texts[name], MetadataError)
    except (MetadataError, OSError) as error:
        return f"its transcript cannot be read: {error}"
    speaker = facts["SpkrID"]
    return {
        "text": " ".join(text.split()),
        "speaker": "" if speaker.lower() == "unknown" else speaker,
        "emotion": _LABELS[label],
        "gender": GENDERS.get(facts["Gender"].lower(), ""),
        "language": "en",
        "split": _SPLITS.get(facts["Split_Set"].lower(), "test"),
        "source": "msp-podcast",
    }


def _list_of(tree: Tree) -> Path:
    """Return the list of labels, the one in CSV if there are two."""
    return min(
        (path for path in tree.files if _LISTS.fullmatch(path.name)),
        key=lambda path: path.suffix.lower(),
    )


def _read_labels(path: Path) -> dict[str, _Facts]:
    """Return the facts of each clip by its name in capitals.

    MetadataError where columns are missing.
    """
    text = read_text(path, MetadataError)
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(io.StringIO(text)))
    else:
        try:
            rows = [{_KEY: name, **facts} for name, facts in json.loads(text).items()]
        except (ValueError, AttributeError, TypeError) as error:
            raise MetadataError(f"{path}: is no list of labels: {error}; fetch it again") from error
    labels: dict[str, _Facts] = {}
    for number, row in enumerate(rows, start=1):
        missing = [name for name in (_KEY, *_NEEDED) if row.get(name) is None]
        if missing:
            raise MetadataError(
                f"{path} row {number}: has no {shorten(missing)}; the list of MSP-Podcast has"
                f" {_KEY}, {', '.join(_NEEDED)}: fetch it again"
            )
        facts = {name: str(row[name]).strip() for name in _NEEDED}
        labels[Path(str(row[_KEY]).strip()).stem.upper()] = facts
    return labels
