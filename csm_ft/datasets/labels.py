"""What the labels of data sets mean, in one vocabulary; counted, and merged where asked.

Emotions are neutral, calm, happy, sad, angry, fearful, disgust and surprised, as in RAVDESS;
intensities low, medium and high in CREMA-D, normal and strong in RAVDESS. A label that a set leaves
open is "".
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from csm_ft.console import shorten
from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.tables import TAGS
from csm_ft.errors import ConfigError

# Set -> its label, in small letters -> the emotion.
EMOTIONS: Mapping[str, Mapping[str, str]] = {
    "ravdess": {
        **{"01": "neutral", "02": "calm", "03": "happy", "04": "sad"},
        **{"05": "angry", "06": "fearful", "07": "disgust", "08": "surprised"},
    },
    "cremad": {
        **{"ang": "angry", "dis": "disgust", "fea": "fearful"},
        **{"hap": "happy", "neu": "neutral", "sad": "sad"},
    },
    "cremad votes": {
        **{"a": "angry", "d": "disgust", "f": "fearful"},
        **{"h": "happy", "n": "neutral", "s": "sad"},
    },
    "esd": {
        **{"neutral": "neutral", "angry": "angry", "happy": "happy", "sad": "sad"},
        **{"surprise": "surprised", "surprised": "surprised"},
        **{"中立": "neutral", "中性": "neutral", "生气": "angry", "愤怒": "angry"},
        **{"快乐": "happy", "开心": "happy", "高兴": "happy", "伤心": "sad", "悲伤": "sad"},
        **{"惊喜": "surprised", "惊讶": "surprised"},
    },
    "dailytalk": {
        **{"no emotion": "neutral", "none": "neutral", "anger": "angry", "disgust": "disgust"},
        **{"fear": "fearful", "happiness": "happy", "sadness": "sad", "surprise": "surprised"},
    },
    "msp-podcast": {
        **{"a": "angry", "s": "sad", "h": "happy", "u": "surprised", "f": "fearful"},
        **{"d": "disgust", "c": "contempt", "n": "neutral", "o": "", "x": ""},
    },
    "prepared": {  # by scripts, which have words of their own
        **{word: word for word in ("neutral", "calm", "happy", "sad", "angry", "disgust")},
        **{"anger": "angry", "happiness": "happy", "sadness": "sad", "disgusted": "disgust"},
        **{"fear": "fearful", "fearful": "fearful", "surprise": "surprised"},
        **{"surprised": "surprised", "unknown": "", "": ""},
    },
}
INTENSITIES: Mapping[str, Mapping[str, str]] = {
    "ravdess": {"01": "normal", "02": "strong"},
    "cremad": {"lo": "low", "md": "medium", "hi": "high", "xx": "", "x": ""},
}
GENDERS: Mapping[str, str] = {
    **dict.fromkeys(("m", "male", "male_masculine"), "male"),
    **dict.fromkeys(("f", "female", "female_feminine"), "female"),
}
VOICE, ACTED = "emotion_voice", "emotion_acted"  # columns beside emotion
TIE = ":"  # between the labels that as many listeners gave


def read_map(pairs: Sequence[str]) -> dict[str, str]:
    """Return {old: new} of pairs like calm=neutral; ConfigError for anything else."""
    merged: dict[str, str] = {}
    for pair in pairs:
        old, is_pair, new = (part.strip() for part in pair.partition("="))
        if not (old and is_pair and new):
            raise ConfigError(f"--map {pair}: write OLD=NEW, as calm=neutral")
        if merged.setdefault(old, new) != new:
            raise ConfigError(f"--map {old}={merged[old]} and {old}={new} differ; keep one")
    return merged


def merge_labels(rows: Sequence[Row], merged: Mapping[str, str]) -> list[Row]:
    """Replace emotions by those that they are merged into, each once.

    ConfigError for one that no row has.
    """
    there = Counter(row.tags.get("emotion", "") for row in rows)
    for old in merged:
        if old not in there:
            known = shorten(name for name in there if name) or "none"
            raise ConfigError(f"--map {old}={merged[old]}: no row has it; the emotions are {known}")
    return [_with_emotion(row, merged.get(row.tags.get("emotion", ""), "")) for row in rows]


def use_votes(rows: Sequence[Row]) -> tuple[list[Row], list[Rejection]]:
    """Return rows with the emotion that listeners heard, and those on which they did not agree.

    What was acted stays in the column emotion_acted. ConfigError where no row has votes.
    """
    if not any(VOICE in row.tags for row in rows):
        raise ConfigError(
            "--label voice: no row has votes of listeners; they are in processedResults/"
            "summaryTable.csv of CREMA-D: put it below the folder, or use --label acted"
        )
    heard: list[Row] = []
    open_ones: list[Rejection] = []
    for row in rows:
        vote = row.tags.get(VOICE, "")
        if not vote or TIE in vote:
            reason = (
                f"listeners heard {vote.replace(TIE, ' and ')} alike"
                if vote
                else "no votes of listeners in summaryTable.csv"
            )
            reason += "; --label acted keeps the row"
            open_ones.append(Rejection(row.where, str(row.path), row.text, reason, row.split))
            continue
        others = {name: value for name, value in row.tags.items() if name != VOICE}
        acted = row.tags.get("emotion", "")
        heard.append(replace(row, tags={**others, "emotion": vote, ACTED: acted}))
    return heard, open_ones


def count_labels(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line per column of tags: how many rows have each label."""
    for column in (*TAGS, VOICE):
        counts = Counter(row.tags.get(column, "") for row in rows)
        without = counts.pop("", 0)
        if counts:
            shown = [f"{label} {count}" for label, count in counts.most_common()]
            rest = f"; {without} rows without" if without else ""
            yield f"{column}: {shorten(shown)}{rest}"


def _with_emotion(row: Row, emotion: str) -> Row:
    return replace(row, tags={**row.tags, "emotion": emotion}) if emotion else row
