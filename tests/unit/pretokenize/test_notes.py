"""Implausible clips are noted by kind, plausible ones are not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.config.notes import NoteLimits
from csm_ft.data.measures import Measures
from csm_ft.data.split import Clip
from csm_ft.pretokenize.note_kinds import Place
from csm_ft.pretokenize.notes import count_notes, find_notes
from tests.helpers.pretokenizing import FakeEncoder, Work

GOOD = Measures(-22.0, 0.5, 0.1, 0.0, 0.0)
WORDS = ("The bus to the library leaves at noon.", "Could you show me the mirror?", "It is late.")


def place(
    index: int = 0,
    text: str = "",
    seconds: float = 0.0,
    *,
    measures: Measures = GOOD,
    speaker: str = "anna",
    split: str = "train",
    sound: str = "",
) -> Place:
    text = text or f"{WORDS[index % 3]} {'abcdefgh'[index % 8]}"
    seconds = seconds or 0.5 + len(text) / 15
    id_ = sound or f"{split}-{index}-{text}"
    clip = Clip(id_, text, speaker, f"{index}.wav", 0, seconds, seconds, measures=measures)
    return Place(split, index, f"{split}.json row {index + 1}", clip)


def kinds(*odd: Place, num_good: int = 20, limits: NoteLimits | None = None) -> dict[str, int]:
    good = [place(100 + i) for i in range(num_good)]
    return count_notes(find_notes([*good, *odd], limits or NoteLimits()))


@pytest.mark.parametrize("num_good", [0, 1, 7, 8, 100])
def test_plausible_clips_have_no_note(num_good: int) -> None:
    assert kinds(num_good=num_good) == {}


@pytest.mark.parametrize(
    ("measures", "kind"),
    [
        (Measures(-120.0, 0.0, 1.0, 0.0, 0.0), "silent"),
        (Measures(-105.0, 0.0, 1.0, 0.0), "silent"),
        (Measures(-50.0, 0.01, 0.1, 0.0), "quiet"),
        (Measures(-43.0, 0.01, 0.1, 0.0), "quiet"),
        (Measures(-6.0, 1.0, 0.1, 0.39), "clipped"),
        (Measures(-20.0, 0.5, 0.95, 0.0), "mostly_silence"),
        (Measures(-110.0, 0.0, 1.0, 0.0, 90.0), "sides_cancel"),
        (Measures(-40.0, 0.1, 0.2, 0.0, 20.0), "sides_cancel"),
    ],
)
def test_bad_sound_is_noted_once(measures: Measures, kind: str) -> None:
    assert kinds(place(measures=measures)) == {kind: 1}


@pytest.mark.parametrize("num_good", [0, 2, 50])
@pytest.mark.parametrize(
    ("text", "seconds", "kind"),
    [
        ("The baker sold the wooden bottle. " * 40, 2.0, "text_too_long"),
        ("这是一个很长的句子。" * 40, 2.0, "text_too_long"),
        ("In 1984. " * 40, 4.0, "text_too_long"),
        ("Yes.", 20.0, "sound_too_long"),
        ("Да.", 15.0, "sound_too_long"),
    ],
)
def test_text_and_sound_that_differ_are_noted(
    num_good: int, text: str, seconds: float, kind: str
) -> None:
    assert kinds(place(0, text, seconds), num_good=num_good) == {kind: 1}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Yes.", 1.5),
        ("A", 0.5),
        ("你好，我们明天早上九点见面。", 3.0),
        ("Mhm.", 0.4),
        ("नमस्ते", 1.0),
    ],
)
def test_short_and_foreign_texts_are_plausible(text: str, seconds: float) -> None:
    assert kinds(place(0, text, seconds)) == {}


def test_factor_of_pace_is_an_option() -> None:
    odd = place(0, WORDS[0], 10.0)
    assert kinds(odd, limits=NoteLimits(chars_per_sec_factor=5)) == {}
    assert kinds(odd, limits=NoteLimits(chars_per_sec_factor=2)) == {"sound_too_long": 1}


@pytest.mark.parametrize(("text", "count"), [("coqui", 20), (WORDS[0], 6), ("Yes.", 12)])
def test_one_text_on_many_clips_is_noted(text: str, count: int) -> None:
    same = [place(i, text, 1.5 + i / 100) for i in range(count)]
    assert kinds(*same) == {"repeated_text": 1}


def test_parallel_corpus_repeats_every_text() -> None:
    clips = [place(i, f"{WORDS[0]} {'abcdefghij'[i % 10]}", 3.0, sound=str(i)) for i in range(100)]
    assert kinds(*clips, num_good=0) == {}


def test_one_sound_with_several_texts_is_noted() -> None:
    texts = ("Hello there, Ben.", "How are you, Anna?")
    pairs = [place(i, text, 1.5, sound="same") for i, text in enumerate(texts)]
    assert kinds(*pairs) == {"several_texts": 2}
    again = [place(i, text, 1.5, sound="same") for i, text in enumerate(("Hello.", "hello. "))]
    assert kinds(*again) == {}


@pytest.mark.parametrize("text", ["2.48", "...", "👍", "-"])
def test_text_without_letters_is_noted(text: str) -> None:
    assert kinds(place(0, text, 1.0)) == {"no_letters": 1}


def test_unknown_validation_speaker_is_noted() -> None:
    val = [place(i, split="val", speaker="ben") for i in range(3)]
    assert kinds(*val, place(5, split="val")) == {"unknown_speaker": 1}
    assert kinds(place(5, split="val", speaker="")) == {}, "nobody is named"


def tagged(one: Place, **tags: str) -> Place:
    return replace(one, clip=replace(one.clip, tags=tags))


def test_split_by_speaker_is_not_noted() -> None:
    train = [tagged(place(i), source="acted") for i in range(3)]
    val = [tagged(place(i, split="val", speaker="ben"), source="acted") for i in range(3)]
    assert kinds(*train, *val) == {}
    mixed = tagged(place(5, split="val"), source="acted")
    assert kinds(*train, *val, mixed) == {"unknown_speaker": 1}
    assert kinds(*train, tagged(val[0], source="other")) == {"unknown_speaker": 1}


def test_acted_sentences_are_not_noted() -> None:
    emotions = ("angry", "sad", "calm")
    acted = [
        tagged(place(i, WORDS[0], 1.5, speaker=f"a{i // 6}"), emotion=emotions[i % 3])
        for i in range(24)
    ]
    assert kinds(*acted) == {}
    assert kinds(*(tagged(one, emotion="sad") for one in acted)) == {"repeated_text": 4}


@pytest.mark.parametrize("other", ["Anna", "ANNA", " anna", "ａnna"])
def test_spellings_of_a_speaker_are_noted(other: str) -> None:
    assert kinds(place(speaker=other)) == {"speaker_spelling": 1}
    assert kinds(place(speaker="annabel")) == {}


# pretokenize.py


def write_silent(work: Work) -> dict[str, str]:
    noise = np.random.default_rng(0).standard_normal(16000) * 5e-6
    soundfile.write(work.folder / "silent.wav", noise, 16000, subtype="FLOAT")
    return {"path": "silent.wav", "text": "Nothing to hear."}


def test_report_has_a_section_of_notes(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*work.clips([1.0, 1.1, 1.2]), write_silent(work)]
    assert work.run(rows, rows[:1]) == 0
    out = capsys.readouterr().out
    assert "Look at these" in out
    assert "train.json row 4  silent.wav  -106 dBFS" in out
    assert work.report()["notes"] == {"silent": 1}
    (note,) = Path(f"{work.output}.notes.jsonl").read_text().splitlines()
    assert json.loads(note)["where"].endswith("row 4")
    assert work.run(rows[:3], rows[:1]) == 0
    assert "Look at these" not in capsys.readouterr().out
    assert not Path(f"{work.output}.notes.jsonl").exists()


def test_strict_notes_writes_only_notes(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*work.clips([1.0, 1.1, 1.2]), write_silent(work)]
    assert work.run(rows, rows[:1], "--strict") == 0, "--strict is about rejected rows"
    work.output.unlink()
    assert work.run(rows, rows[:1], "--strict_notes") == 1
    assert "--strict_notes allows none" in capsys.readouterr().err
    assert not work.output.exists()
    assert Path(f"{work.output}.notes.jsonl").exists()
    assert work.run(rows[:3], rows[:1], "--strict_notes") == 0
