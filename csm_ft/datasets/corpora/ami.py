"""AMI meetings: the manual annotations (NXT), and the headset of each person, M.Headset-0.wav.

segments/ names the words of words/, and corpusResources/meetings.xml who wears which headset.
Punctuation is a word of its own. Splits are those of the corpus' partition full-corpus-ASR.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from csm_ft.datasets.corpora.base import glue, sounds_by_name, tell_unheard
from csm_ft.datasets.labels import GENDERS
from csm_ft.datasets.tables import Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError

_SEGMENTS = re.compile(r"([A-Z]{2}\d{4}[a-e]?)\.([A-E])\.segments\.xml")  # meeting, agent
_HREF = re.compile(r"#id\(([^)]+)\)(?:\.\.id\(([^)]+)\))?")
_ID = "{http://nite.sourceforge.net/}id"
_VAL = (
    *("ES2011", "IS1008", "TS3004"),
    *("IB4001", "IB4002", "IB4003", "IB4004", "IB4010", "IB4011"),
)
_TEST = ("ES2004", "IS1009", "TS3003", "EN2002")

_Xml = ElementTree.Element
_People = Mapping[tuple[str, str], Mapping[str, str]]  # meeting, agent -> channel, global_name


def is_ami(tree: Tree) -> bool:
    """Tell whether there are the segments of a meeting."""
    return any(_SEGMENTS.fullmatch(path.name) for path in tree.files)


def read_ami(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per segment of the headsets that are there; the others are counted.

    MetadataError without the list of meetings, which says who wears which headset.
    """
    by_name = {path.name: path for path in tree.files}
    people = _people(tree, by_name)
    sounds, unheard = sounds_by_name(tree), dict[str, None]()
    for path in tree.files:
        name = _SEGMENTS.fullmatch(path.name)
        if name is None:
            continue
        meeting, agent = name.groups()
        person = people.get((meeting, agent))
        if person is None:
            yield str(path), Unreadable("meetings.xml names nobody for it; fetch it again")
            continue
        headset = f"{meeting}.Headset-{person['channel']}"
        if headset not in sounds:
            unheard[headset] = None
            continue
        words = by_name.get(f"{meeting}.{agent}.words.xml")
        if words is None:
            yield str(path), Unreadable(f"there is no {meeting}.{agent}.words.xml: fetch words/")
            continue
        yield from _rows(path, words, _facts(person, sounds[headset], meeting))
    tell_unheard(tell, "AMI", unheard)


def _facts(person: Mapping[str, str], sound: Path, meeting: str) -> dict[str, str]:
    name, session = person["global_name"], meeting[:6]
    return {
        "path": str(sound),
        "speaker": name,
        "gender": GENDERS.get(name[:1].lower(), ""),
        "split": "val" if session in _VAL else "test" if session in _TEST else "train",
        "language": "en",
        "source": "ami",
    }


def _rows(segments: Path, words: Path, facts: Mapping[str, str]) -> Iterator[Record]:
    try:
        said = list(_parse(words))
        found = list(_parse(segments))
    except MetadataError as error:
        yield str(segments), Unreadable(str(error), facts["path"])
        return
    places = {one.get(_ID, ""): place for place, one in enumerate(said)}
    for number, segment in enumerate((one for one in found if one.tag == "segment"), start=1):
        where = f"{segments} {segment.get(_ID, number)}"
        yield where, _row(segment, said, places, facts)


def _row(
    segment: _Xml, words: list[_Xml], places: Mapping[str, int], facts: Mapping[str, str]
) -> dict[str, Any] | Unreadable:
    times = {"start": segment.get("transcriber_start"), "end": segment.get("transcriber_end")}
    hrefs = (_HREF.search(child.get("href", "")) for child in segment)
    spans = [(href[1], href[2] or href[1]) for href in hrefs if href]
    lost = [id_ for span in spans for id_ in span if id_ not in places]
    if lost:
        reason = f"names the word {lost[0]}, which is not there; fetch words/ again"
        return Unreadable(reason, facts["path"], times)
    chosen = [word for a, b in spans for word in words[places[a] : places[b] + 1]]
    text = " ".join(word.text.strip() for word in chosen if word.tag == "w" and word.text)
    if not any(letter.isalnum() for letter in text):
        return Unreadable("has no words (laughter, coughs, noise); left out", facts["path"], times)
    return {**facts, "text": glue(text), **times}


def _people(tree: Tree, by_name: Mapping[str, Path]) -> _People:
    path = by_name.get("meetings.xml")
    if path is None:
        raise MetadataError(
            f"{tree.folder}: AMI without corpusResources/meetings.xml, which says who wears which"
            " headset; put the manual annotations below the folder"
        )
    return {
        (meeting.get("observation", ""), person.get("nxt_agent", "")): person.attrib
        for meeting in _parse(path)
        for person in meeting
        if {"channel", "global_name"} <= person.attrib.keys()
    }


def _parse(path: Path) -> _Xml:
    try:
        return ElementTree.parse(path).getroot()  # noqa: S314 (no entities are fetched)
    except (ElementTree.ParseError, OSError) as error:
        raise MetadataError(f"{path}: cannot be read as XML ({error}); fetch it again") from error
