"""The kinds of notes: one function each, over the clips of all splits.

Everything is computed from the clip table, so the notes of a token file can be found again. What is
usual comes from the clips themselves where there are enough of them.
"""

import json
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from csm_ft.config.notes import NoteLimits
from csm_ft.data.measures import SILENT_DBFS
from csm_ft.data.split import Clip

_MAX_TEXT_CHARS = 60  # of a text for people
_FEW_CLIPS = 8  # below them, nothing is usual

_QUIET_BELOW_MEDIAN_DB = 20.0
# Letters per second of any speech, and what is left out of account: pauses around short texts.
_SLOWEST_PER_SEC, _FASTEST_PER_SEC = 2.0, 40.0
_PAUSES_SEC, _SPARE_LETTERS = 2.0, 8
_PACE_MADS, _MIN_PACE_FACTOR, _MAX_PACE_FACTOR = 6.0, 2.0, 4.0
_LETTERS_PER_WIDE, _LETTERS_PER_DIGIT = 3, 4  # 语 and 7 take longer to say than one letter
# A sentence on five clips where most are on one; a word like "yes" on a fifth of all clips.
_REPEATS, _REPEATED_SHARE, _SENTENCE_LETTERS = 5, 0.2, 20


@dataclass(frozen=True)
class Place:
    """A clip, and where it comes from."""

    split: str
    index: int  # in its split
    where: str  # "train.json row 17"
    clip: Clip


@dataclass(frozen=True)
class Note:
    """Something implausible about one clip, or about clips of which it is the first."""

    kind: str
    split: str
    index: int  # of the clip in its split
    where: str  # the row of the metadata
    path: str
    text: str
    value: str  # what was found, for people
    weight: float = field(compare=False)  # how far it is from what is usual; the largest is worst

    def to_json(self) -> str:
        """Return one line of notes.jsonl."""
        facts = {name: value for name, value in asdict(self).items() if name != "weight"}
        text = json.dumps(facts, ensure_ascii=False)
        return text.encode(errors="backslashreplace").decode()


# What is measured on the sound


def _sides_cancel(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    for place in places:
        loss_db = place.clip.measures.mix_loss_db
        if loss_db > limits.mix_loss_db:
            value = f"the mix is {loss_db:.0f} dB below the channels"
            yield _note("sides_cancel", place, value, loss_db)


def _silent(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    for place in places:
        level_dbfs, cancels = place.clip.measures.level_dbfs, _cancels(place, limits)
        if level_dbfs < SILENT_DBFS and not cancels:
            yield _note("silent", place, f"{level_dbfs:.0f} dBFS", -level_dbfs)


def _quiet(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    levels = [p.clip.measures.level_dbfs for p in places if p.clip.measures.are_known]
    limit_dbfs = limits.quiet_dbfs
    if len(levels) >= _FEW_CLIPS:
        limit_dbfs = max(limit_dbfs, float(np.median(levels)) - _QUIET_BELOW_MEDIAN_DB)
    for place in places:
        level_dbfs = place.clip.measures.level_dbfs
        if SILENT_DBFS <= level_dbfs < limit_dbfs and not _cancels(place, limits):
            yield _note("quiet", place, f"{level_dbfs:.0f} dBFS", -level_dbfs)


def _clipped(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    for place in places:
        share = place.clip.measures.clipped_share
        if share > limits.clipped_share:
            yield _note("clipped", place, f"{share:.1%} of the samples", share)


def _mostly_silence(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    for place in places:
        measures = place.clip.measures
        if measures.silence_share > limits.silent_share and measures.level_dbfs >= SILENT_DBFS:
            value = f"{measures.silence_share:.0%} of {place.clip.duration_sec:.1f} s"
            yield _note("mostly_silence", place, value, measures.silence_share)


def _cancels(place: Place, limits: NoteLimits) -> bool:
    return place.clip.measures.mix_loss_db > limits.mix_loss_db  # False for NaN


# Text and sound together


def _text_too_long(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    usual, (_, fastest) = usual_pace(places), _pace_limits(places, limits)
    for place in places:
        clip = place.clip
        if letters(clip.text) - _SPARE_LETTERS > fastest * clip.duration_sec:
            yield _note("text_too_long", place, pace_words(clip, usual), pace(clip))


def _sound_too_long(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    usual, (slowest, _) = usual_pace(places), _pace_limits(places, limits)
    for place in places:
        clip = place.clip
        needed_sec = _PAUSES_SEC + letters(clip.text) / slowest
        if letters(clip.text) and clip.duration_sec > needed_sec:
            yield _note("sound_too_long", place, pace_words(clip, usual), 1 / pace(clip))


def _pace_limits(places: Sequence[Place], limits: NoteLimits) -> tuple[float, float]:
    """Return the slowest and the fastest usual pace, in letters per second.

    The pace of speech varies by factors, so distances are those of its logarithm, and the spread is
    1.4826 times their median, as of a normal distribution without its outliers.
    """
    paces = [pace(place.clip) for place in places if letters(place.clip.text)]
    if len(paces) < _FEW_CLIPS:
        return _SLOWEST_PER_SEC, _FASTEST_PER_SEC
    usual, factor = float(np.median(paces)), limits.chars_per_sec_factor
    if factor:
        return usual / factor, usual * factor
    spread = 1.4826 * float(np.median(np.abs(np.log(paces) - math.log(usual))))
    factor = min(max(math.exp(_PACE_MADS * spread), _MIN_PACE_FACTOR), _MAX_PACE_FACTOR)
    return max(_SLOWEST_PER_SEC, usual / factor), min(_FASTEST_PER_SEC, usual * factor)


def usual_pace(places: Sequence[Place]) -> float:
    """Return the median letters per second of the clips with letters; NaN without any."""
    return float(np.median([pace(p.clip) for p in places if letters(p.clip.text)] or [math.nan]))


def pace(clip: Clip) -> float:
    """Return the letters per second of a clip."""
    return letters(clip.text) / max(clip.duration_sec, 1e-3)


def pace_words(clip: Clip, usual: float) -> str:
    """Describe the pace of a clip for people."""
    of_all = f", {usual:.1f} are usual here" if math.isfinite(usual) else ""
    return f"{pace(clip):.1f} characters per second in {clip.duration_sec:.1f} s{of_all}"


def letters(text: str) -> int:
    """Count letters by the time that they take to say; blanks and punctuation take none."""
    if text.isascii() and not any(char.isdigit() for char in text):
        return sum(char.isalpha() for char in text)
    return sum(map(_letters_of, text))


def _letters_of(char: str) -> int:
    if char.isalpha():
        return _LETTERS_PER_WIDE if unicodedata.east_asian_width(char) in "WF" else 1
    return _LETTERS_PER_DIGIT if char.isnumeric() else 0


# Texts


def _repeated_text(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    """Yield one note per text; the same sound again does not count.

    Where clips have emotions, a text of each speaker and emotion counts by itself: actors say few.
    """
    # Text (speaker, emotion) -> sound -> its first clip.
    clips: dict[tuple[str, ...], dict[str, Place]] = defaultdict(dict)
    for place in places:
        clip = place.clip
        acted = (clip.speaker, clip.tags["emotion"]) if "emotion" in clip.tags else ()
        clips[_plain(clip.text), *acted].setdefault(clip.id, place)
    usual = float(np.median([len(sounds) for sounds in clips.values()] or [1]))
    num_sounds = len({place.clip.id for place in places})
    for (text, *_), sounds in clips.items():
        is_sentence = letters(text) >= _SENTENCE_LETTERS
        is_unusual = is_sentence and len(sounds) >= _REPEATS * usual
        is_frequent = len(sounds) > _REPEATED_SHARE * num_sounds and len(clips) < num_sounds
        if len(sounds) >= _REPEATS and (is_unusual or is_frequent):
            first = next(iter(sounds.values()))
            yield _note("repeated_text", first, f"on {len(sounds)} clips", len(sounds))


def _several_texts(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    texts: dict[str, dict[str, str]] = defaultdict(dict)  # sound -> text, as compared and written
    for place in places:
        texts[place.clip.id].setdefault(_plain(place.clip.text), place.clip.text)
    for place in places:
        others = {**texts[place.clip.id]}
        others.pop(_plain(place.clip.text))
        if others:
            another = shorten(next(iter(others.values())))
            yield _note("several_texts", place, f"{len(others) + 1} texts, also {another}", 1)


def _no_letters(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    for place in places:
        if not any(char.isalpha() for char in place.clip.text):
            yield _note("no_letters", place, "no letter", 1)


def _plain(text: str) -> str:
    """Return a text as it is compared: without capitals, blanks and kinds of one character."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


# Speakers


def _unknown_speaker(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    """Yield one note per speaker.

    None where a source is in training, but no validation speaker of it: it is split by speaker.
    """
    known = {_of_source(place.clip) for place in places if place.split == "train"}
    sources = {source for source, _ in known if source}
    held_out = {_of_source(place.clip) for place in places if place.split == "val"}
    by_speaker = sources - {source for source, _ in known & held_out}
    speakers = {speaker for _, speaker in known}
    of_val: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        source, speaker = _of_source(place.clip)
        is_new = speaker and speaker not in speakers
        if place.split == "val" and is_new and source not in by_speaker:
            of_val[speaker].append(place)
    for speaker, clips in of_val.items():
        value = f"speaker {speaker}, {len(clips)} clips"
        yield _note("unknown_speaker", clips[0], value, len(clips))


def _of_source(clip: Clip) -> tuple[str, str]:
    return clip.tags.get("source", ""), clip.speaker


def _speaker_spelling(places: Sequence[Place], limits: NoteLimits) -> Iterator[Note]:
    """Yield one note per speaker that is written in several ways."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for place in places:
        spellings[_plain(place.clip.speaker)][place.clip.speaker] += 1
    several = [found for found in spellings.values() if len(found) > 1]
    for found in several:
        value = ", ".join(f"{name!r} ({number})" for name, number in found.most_common())
        rarest = min(found, key=found.__getitem__)
        first = next(place for place in places if place.clip.speaker == rarest)
        yield _note("speaker_spelling", first, value, found.total())


def _note(kind: str, place: Place, value: str, weight: float) -> Note:
    clip = place.clip
    return Note(kind, place.split, place.index, place.where, clip.source, clip.text, value, weight)


def shorten(text: str) -> str:
    """Return a text in quotes, cut to 60 characters."""
    short = text if len(text) <= _MAX_TEXT_CHARS else f"{text[: _MAX_TEXT_CHARS - 3]}..."
    return json.dumps(short, ensure_ascii=False)


Finder = Callable[[Sequence[Place], NoteLimits], Iterator[Note]]


class Kind(NamedTuple):
    """A kind of note, in words for people, and what finds it."""

    title: str
    way_out: str
    find: Finder


KINDS = {
    "sides_cancel": Kind(
        "the channels of the file cancel each other in the mix",
        "one side is inverted: take one with --channel left",
        _sides_cancel,
    ),
    "silent": Kind(
        "nothing to hear",
        "drop the rows, export the files again, or take another --channel",
        _silent,
    ),
    "quiet": Kind("much too quiet", "raise the level of the files, or drop the rows", _quiet),
    "clipped": Kind(
        "clipped", "take the recordings before they were amplified, or drop the rows", _clipped
    ),
    "mostly_silence": Kind(
        "mostly silence",
        "cut the clips to the speech, with start and end or in the files",
        _mostly_silence,
    ),
    "text_too_long": Kind(
        "more text than fits into the sound",
        "check that text and sound belong together, and that start and end are in seconds",
        _text_too_long,
    ),
    "sound_too_long": Kind(
        "more sound than the text needs",
        "check that the text is complete and belongs to the sound, and give start and end",
        _sound_too_long,
    ),
    "repeated_text": Kind(
        "one text on many clips",
        "check that the column of the text is the right one",
        _repeated_text,
    ),
    "several_texts": Kind(
        "one sound with several texts",
        "give each row its own start and end or its own channel, or keep one row",
        _several_texts,
    ),
    "no_letters": Kind(
        "a text without a letter",
        "check that the column of the text is the right one; write numbers as words",
        _no_letters,
    ),
    "unknown_speaker": Kind(
        "a validation speaker that training lacks",
        "for a voice, add clips of that speaker to --train_data, or validate on its speakers; a"
        " recogniser is best judged by speakers that it never heard",
        _unknown_speaker,
    ),
    "speaker_spelling": Kind(
        "one speaker name in several spellings",
        "write each speaker in one way",
        _speaker_spelling,
    ),
}
