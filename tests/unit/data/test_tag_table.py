"""Tables per emotion, source and speaker, and what stands on both sides of a split."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

import csm_ft.data.tag_table
from csm_ft.data.describe import describe_store, summarise
from csm_ft.data.measures import Measures
from csm_ft.data.split import Store
from csm_ft.data.tag_table import tag_tables
from csm_ft.data.token_file import open_store
from tests.helpers.tables import Table, make_table, write


def measured(level_dbfs: float, noise_floor_dbfs: float = -70.0) -> Measures:
    return Measures(
        level_dbfs, 0.5, 0.2, 0.0, 0.0, noise_floor_dbfs, 0.04, 0.12, 180 - level_dbfs, 5.5
    )


def table(*clips: tuple[str, str, str, float], seed: int = 0) -> Table:
    """Make clips of 1.6 s from emotion ("" = no tags), speaker, text and level (NaN = unmeasured)."""
    made = make_table([20] * len(clips), seed=seed, texts=[text for _, _, text, _ in clips])
    made.clips = [
        replace(
            clip,
            speaker=speaker,
            tags={"emotion": emotion, "source": "acted"} if emotion else {},
            measures=Measures() if math.isnan(level) else measured(level),
        )
        for clip, (emotion, speaker, _, level) in zip(made.clips, clips, strict=True)
    ]
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    train = table(
        ("sad", "a", "Twelve chars", -30.0),
        ("sad", "a", "Twelve chars", -20.0),
        ("sad", "b", "Twelve chars", math.nan),
        ("angry", "b", "Kids are talking by the door", -10.0),
    )
    val = table(("angry", "c", "twelve  chars!", -14.0), ("angry", "b", "Else", -12.0), seed=1)
    return open_store(write(tmp_path / "t.hdf5", train, val))


def test_medians_of_a_group(store: Store) -> None:
    tables = tag_tables(store).by
    assert list(tables) == ["emotion", "source", "speaker"]
    assert [
        (value, sound.clips, sound.val_clips) for value, sound in tables["emotion"].items()
    ] == [
        ("sad", 3, 0),
        ("angry", 3, 2),
    ]
    sad = tables["emotion"]["sad"]
    assert sad.hours == pytest.approx(3 * 1.6 / 3600)
    assert sad.level_dbfs == pytest.approx(-25)
    assert sad.noise_floor_dbfs == pytest.approx(-70)
    assert (sad.f0_median_hz, sad.f0_range_st) == pytest.approx((205, 5.5))
    assert (sad.leading_silence_sec, sad.trailing_silence_sec) == pytest.approx((0.04, 0.12))
    # Of three clips, the unmeasured one counts with its silence.
    assert sad.chars_per_sec == pytest.approx(12 / (1.6 - 0.16))


def test_report_and_page_have_the_tables(store: Store) -> None:
    facts = summarise(store, {})
    assert facts["by_speaker"]["b"]["clips"] == 3
    assert facts["speakers_on_both_sides"] == ["b"]
    assert facts["sentences_on_both_sides"] == ["twelve chars"]
    text = describe_store(store, [])
    assert "1 of 2 speakers that are held out stand in training, too: b" in text
    rows = [line.split() for line in text.splitlines()]
    assert [
        "sad",
        "3",
        "0",
        "0.00",
        "-25.0",
        "0.00%",
        "-70.0",
        "0.04",
        "0.12",
        "8.3",
        "205",
        "5.5",
    ] in rows


def test_missing_pyworld_is_said_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "F0 is not measured" not in describe_store(store, [])
    monkeypatch.setattr(csm_ft.data.tag_table, "pyworld", lambda: None)
    assert describe_store(store, []).count("F0 is not measured: pyworld is not installed") == 1


def test_unmeasured_group_has_no_numbers(tmp_path: Path) -> None:
    only = table(("sad", "a", "Hello", math.nan))
    facts = summarise(open_store(write(tmp_path / "t.hdf5", only, only)), {})
    assert facts["by_emotion"]["sad"]["level_dbfs"] is None
    assert facts["by_emotion"]["sad"]["chars_per_sec"] == pytest.approx(5 / 1.6)


def test_files_without_tags_have_no_tables(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "t.hdf5"))
    assert tag_tables(store).by == {}
    assert not [name for name in summarise(store, {}) if name.startswith("by_")]


def test_long_tables_are_cut_on_the_page(tmp_path: Path) -> None:
    clips = [("sad", f"speaker {n}", "Hello", -20.0) for n in range(30)]
    lines = list(tag_tables(open_store(write(tmp_path / "t.hdf5", table(*clips)))).lines())
    assert "and 19 more" in lines  # with the speaker of the validation clip
