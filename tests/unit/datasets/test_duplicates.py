"""The same sound twice: in copies, in other formats, in parts of files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.data.inspect import inspect_files
from csm_ft.data.rows import Row
from csm_ft.datasets.duplicates import describe_twin, find_twins, part_of

RATE_HZ = 8000


def sound(seed: int, num_samples: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples)


def save(path: Path, wave: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, wave, rate_hz, subtype)
    return path


def row(path: Path, text: str = "A.", **more: object) -> Row:
    values = {"where": path.name, "speaker": None, "start_sec": None, "end_sec": None} | more
    return Row(path=path, text=text, **values)  # type: ignore[arg-type]


def twins(*rows: Row) -> dict[int, int]:
    files = inspect_files((one.path for one in rows), 2)
    parts = [part_of(one, files[one.path]) for one in rows]  # type: ignore[arg-type]
    assert None not in parts
    return find_twins(parts, 2)  # type: ignore[arg-type]


def test_copies_are_found(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.wav", sound(0)), save(tmp_path / "b.wav", sound(1))
    copy = tmp_path / "copy.wav"
    copy.write_bytes(one.read_bytes())
    assert twins(row(one), row(other), row(copy), row(other)) == {2: 0, 3: 1}


@pytest.mark.parametrize(
    ("name", "subtype"), [("b.flac", "PCM_16"), ("b.aiff", "PCM_24"), ("b.wav", "FLOAT")]
)
def test_other_formats_are_found(tmp_path: Path, name: str, subtype: str) -> None:
    one = save(tmp_path / "a.wav", sound(0))
    samples, _ = soundfile.read(one)
    other = save(tmp_path / name, samples, subtype=subtype)
    assert twins(row(save(tmp_path / "c.wav", sound(3))), row(one), row(other)) == {2: 1}


def test_two_equal_channels_are_found(tmp_path: Path) -> None:
    one = save(tmp_path / "a.wav", sound(0))
    samples, _ = soundfile.read(one)
    other = save(tmp_path / "b.wav", np.stack([samples, samples], 1))
    assert twins(row(one), row(other)) == {1: 0}
    assert twins(row(one), row(other, channel="left")) == {1: 0}


def test_channels_of_one_file_differ(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.stack([sound(0), sound(1)], 1))
    assert twins(row(path, channel="left"), row(path, channel="right")) == {}


def test_parts_of_one_file_differ(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", sound(0))
    first, second = {"end_sec": 0.25}, {"start_sec": 0.25}
    assert twins(row(path, **first), row(path, **second)) == {}
    assert twins(row(path), row(path, start_sec=0.0, end_sec=0.5)) == {1: 0}


def test_a_part_equals_its_own_file(tmp_path: Path) -> None:
    long, cut = save(tmp_path / "a.wav", sound(0)), tmp_path / "b.flac"
    save(cut, soundfile.read(long)[0][800:2400])
    assert twins(row(long, start_sec=0.1, end_sec=0.3), row(cut)) == {1: 0}


def test_almost_the_same_is_not_the_same(tmp_path: Path) -> None:
    wave = sound(0)
    changed = wave.copy()
    changed[2000] += 2 / 32768
    paths = [save(tmp_path / "a.wav", wave), save(tmp_path / "b.wav", changed)]
    paths += [save(tmp_path / "c.wav", wave, rate_hz=16000)]
    assert twins(*map(row, paths)) == {}


def test_sounds_that_break_off_are_no_twins(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.flac", sound(n)) for n in (0, 1)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:3000])
    assert twins(*map(row, paths)) == {}


def test_part_past_the_end_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", sound(0))
    file = inspect_files([path], 1)[path]
    assert part_of(row(path, start_sec=0.5), file) is None  # type: ignore[arg-type]


def test_other_labels_conflict(tmp_path: Path) -> None:
    one = row(tmp_path / "a.wav", "It's late.", tags={"emotion": "sad"})
    for text, emotion, words in (
        ("it's late", "Sad", None),
        ("It's late.", "", None),
        ("It is late.", "sad", "text 'It is late.' against \"It's late.\""),
        ("It's late.", "angry", "emotion 'angry' against 'sad'"),
    ):
        reason, is_conflict = describe_twin(
            row(tmp_path / "b.wav", text, tags={"emotion": emotion}), one
        )
        assert is_conflict == (words is not None)
        assert (words or "nothing needs to be done") in reason
        assert "a.wav" in reason


def test_speakers_conflict_within_a_source(tmp_path: Path) -> None:
    one, other = (
        row(tmp_path / f"{n}.wav", speaker=f"s-{n}", tags={"source": "s"}) for n in range(2)
    )
    assert describe_twin(other, one)[1]
    assert not describe_twin(replace(other, tags={"source": "t"}), one)[1]
