"""RAVDESS: 03-01-06-01-02-01-12.wav, seven numbers that say everything."""

import re
from collections import Counter
from collections.abc import Iterator

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
from csm_ft.datasets.labels import EMOTIONS, INTENSITIES
from csm_ft.datasets.tree import Record, Tell, Tree

# Modality, channel, emotion, intensity, statement, repetition, actor.
_NAME = re.compile("-".join([r"(\d\d)"] * 7))
_SPEECH = re.compile(r"03-01(-\d\d){5}")  # sound alone, spoken
_STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
_ACTORS = [f"{number:02}" for number in range(1, 25)]
_CLIPS_PER_ACTOR = 60
_EMOTIONS, _INTENSITIES = EMOTIONS["ravdess"], INTENSITIES["ravdess"]


def is_ravdess(tree: Tree) -> bool:
    """Tell whether there is a spoken clip by its name."""
    return has_names(tree, _SPEECH)


def read_ravdess(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per spoken clip; songs, and the sound of videos, are left out."""
    clips: list[Clip] = []
    for name, paths in find_names(tree, _NAME).items():
        if name[1] != "03":
            tree.leave_out("videos", paths)
        elif name[2] != "01":
            tree.leave_out("songs", paths)
        else:
            clips.append(Clip(paths, _columns(name)))
    good = [clip.columns for clip in clips if isinstance(clip.columns, dict)]
    found = {what: Counter(row[what] for row in good) for what in ("speaker", "emotion")}
    counts = {"actors": found["speaker"], "emotions": found["emotion"]}
    expected = {"actors": _ACTORS, "emotions": list(_EMOTIONS.values())}
    few = describe_few("RAVDESS", "actors", found["speaker"], _CLIPS_PER_ACTOR)
    tell_all(tell, [describe_missing("RAVDESS", counts, expected), few])
    yield from read_clips(tree, clips)


def _columns(name: re.Match[str]) -> Columns | str:
    emotion, intensity = _EMOTIONS.get(name[3], ""), _INTENSITIES.get(name[4], "")
    text, actor = _STATEMENTS.get(name[5], ""), name[7]
    if not (emotion and intensity and text and actor in _ACTORS):
        return (
            "its name is none of RAVDESS: emotions are 01 to 08, intensities and statements 01 or"
            " 02, actors 01 to 24; rename it, or move it away"
        )
    return {
        "text": text,
        "speaker": actor,
        "emotion": emotion,
        "intensity": "" if emotion == "neutral" else intensity,  # neutral has no strong one
        "gender": "male" if int(actor) % 2 else "female",
        "language": "en",
        "source": "ravdess",
    }
