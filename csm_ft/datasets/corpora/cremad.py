"""CREMA-D: 1001_DFA_ANG_XX.wav, actor, sentence, emotion and level."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from csm_ft.console import shorten
from csm_ft.datasets.corpora.named import (
    Clip,
    Columns,
    describe_missing,
    find_names,
    has_names,
    read_clips,
    tell_all,
)
from csm_ft.datasets.labels import EMOTIONS, INTENSITIES, TIE, VOICE
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_NAME = re.compile(r"(1\d{3})_([A-Z]{3})_([A-Z]{3})_(XX?|LO|MD|HI)", re.IGNORECASE)
_SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_ACTORS = [str(number) for number in range(1001, 1092)]
_EMOTIONS, _VOTES, _LEVELS = EMOTIONS["cremad"], EMOTIONS["cremad votes"], INTENSITIES["cremad"]


def is_cremad(tree: Tree) -> bool:
    """Tell whether there is a clip by its name."""
    return has_names(tree, _NAME)


def read_cremad(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per clip.

    The gender comes from VideoDemographics.csv; what listeners heard, in the column emotion_voice,
    from summaryTable.csv, where these are below the folder.
    """
    people = _table(tree, tell, "VideoDemographics.csv", "ActorID", "Sex")
    votes = _table(tree, tell, "summaryTable.csv", "FileName", "VoiceVote")
    votes = {_canonical(name): vote for name, vote in votes.items()}
    clips: list[Clip] = []
    unheard = dict.fromkeys(votes)
    for name, paths in find_names(tree, _NAME).items():
        unheard.pop(_canonical(name[0]), None)
        clips.append(Clip(paths, _columns(name, people, votes)))
    good = [clip.columns for clip in clips if isinstance(clip.columns, dict)]
    found = {
        "actors": Counter(row["speaker"] for row in good),
        "emotions": Counter(row["emotion"] for row in good),
    }
    expected = {"actors": _ACTORS, "emotions": list(_EMOTIONS.values())}
    lines = [describe_missing("CREMA-D", found, expected)]
    if unheard:
        lines.append(
            f"CREMA-D: {len(unheard)} clips in summaryTable.csv have no sound: {shorten(unheard)}"
        )
    ties = sum(TIE in row.get(VOICE, "") for row in good)
    if ties:
        lines.append(f"CREMA-D: {ties} clips with as many votes for several emotions")
    tell_all(tell, lines)
    yield from read_clips(tree, clips)


def _canonical(name: str) -> str:
    """Return a name with the level XX for X: 1040_ITH_SAD_X was renamed in 2022."""
    return re.sub(r"_X$", "_XX", name.upper())


def _columns(
    name: re.Match[str], people: Mapping[str, str], votes: Mapping[str, str]
) -> Columns | str:
    actor, sentence = name[1], name[2].upper()
    emotion, text = _EMOTIONS.get(name[3].lower(), ""), _SENTENCES.get(sentence, "")
    if not (emotion and text and actor in _ACTORS):
        return (
            "its name is none of CREMA-D: actors are 1001 to 1091, sentences"
            f" {' '.join(_SENTENCES)}, emotions ANG DIS FEA HAP NEU SAD; rename it, or move it away"
        )
    vote = votes.get(_canonical(name[0]), "")
    heard = sorted({_VOTES.get(letter.strip().lower(), "") for letter in vote.split(":")})
    return {
        "text": text,
        "speaker": actor,
        "emotion": emotion,
        "intensity": _LEVELS[name[4].lower()],
        "gender": people.get(actor, "").lower(),
        "language": "en",
        "source": "cremad",
        VOICE: TIE.join(filter(None, heard)),
    }


def _table(tree: Tree, tell: Tell, file_name: str, key: str, column: str) -> dict[str, str]:
    """Return a column of a table by its key; nothing, which is told, where it has none."""
    path = next((path for path in tree.files if path.name == file_name), None)
    if path is None:
        tell(f"CREMA-D: there is no {file_name}: {column} of its clips is not known")
        return {}
    rows = csv.DictReader(io.StringIO(read_text(path, MetadataError)))
    if not {key, column} <= set(rows.fieldnames or ()):
        tell(
            f"{path}: has no columns {key} and {column} (a Git LFS pointer?): {column} is not known"
        )
        return {}
    return {(row[key] or "").strip(): (row[column] or "").strip() for row in rows}
