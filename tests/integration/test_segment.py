"""Real speech, joined with pauses, by voice activity and a recogniser: cut where it was joined."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import pretokenize
from csm_ft.data import audio
from csm_ft.data.text import normalise, word_errors
from csm_ft.data.token_file import open_store
from csm_ft.datasets.__main__ import main
from tests.conftest import ROOT

CLIPS = ROOT / "tests/data/ljspeech"
RATE_HZ = 22050
OPTIONS = ("--min_sec", "1", "--max_pause_sec", "0.7")  # joints are longer pauses


def texts() -> dict[str, str]:
    lines = (CLIPS / "metadata.csv").read_text().splitlines()
    return dict(line.split("|", 1) for line in lines)


def join(path: Path, silence_sec: float) -> list[tuple[float, float]]:
    """Write all clips one behind another, over soft noise; return where each one is."""
    parts: list[np.ndarray] = []
    edges: list[tuple[float, float]] = []
    now = 0.0
    for name in texts():
        parts.append(np.zeros(round(silence_sec * RATE_HZ), np.float32))
        parts.append(audio.load(CLIPS / f"{name}.flac", sample_rate_hz=RATE_HZ))
        start = now + len(parts[-2]) / RATE_HZ
        now = start + len(parts[-1]) / RATE_HZ
        edges.append((start, now))
    wave = np.concatenate([*parts, np.zeros(RATE_HZ, np.float32)])
    noise = np.random.default_rng(0).normal(0, 3e-4, len(wave))
    soundfile.write(path, wave + noise, RATE_HZ)
    return edges


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Segmented(NamedTuple):
    """The metadata of a segmented recording, and where its clips begin and end, in seconds."""

    metadata: Path
    edges: list[tuple[float, float]]


@pytest.fixture(scope="module", params=["flac", "mp3"])
def segmented(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Segmented:
    folder = tmp_path_factory.mktemp("segmented")
    recording, metadata = folder / f"lecture.{request.param}", folder / "meta.jsonl"
    edges = join(recording, 1.0)
    assert main(["segment", str(recording), "--output", str(metadata), *OPTIONS]) == 0
    return Segmented(metadata, edges)


@pytest.mark.slow
def test_clips_are_what_was_joined(segmented: Segmented) -> None:
    edges, found = segmented.edges, rows(segmented.metadata)
    assert len(found) == len(edges)
    for row, (start_sec, end_sec) in zip(found, edges, strict=True):
        assert row["start_sec"] == pytest.approx(start_sec, abs=0.25)
        assert row["end_sec"] == pytest.approx(end_sec, abs=0.25)
    wanted = [normalise(text) for text in texts().values()]
    heard = [normalise(row["text"]) for row in found]
    assert word_errors(wanted, heard).rate <= 0.2
    assert {(row["language"], row["speaker"], row["source"]) for row in found} == {
        ("en", "lecture", "lecture")
    }
    assert min(row["confidence"] for row in found) > 0.7


@pytest.mark.slow
def test_kill_and_the_same_command_give_what_one_run_gives(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    for place in range(2):
        join(folder / f"{place}.flac", 1.0 + place / 8)
    output, parts = tmp_path / "meta.jsonl", tmp_path / "meta.jsonl.parts"
    argv = ["segment", str(folder), "--output", str(output), *OPTIONS]
    process = subprocess.Popen([sys.executable, "-m", "csm_ft.datasets", *argv], cwd=ROOT)
    while not any(path.stat().st_size for path in parts.glob("*.words.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    kept = {path: path.read_bytes() for path in parts.glob("*.words.jsonl")}
    assert main(argv) == 0
    assert all(path.read_bytes().startswith(before) for path, before in kept.items())
    resumed = rows(output)
    for path in parts.glob("*.words.jsonl"):
        path.unlink()
    assert main(argv) == 0
    assert resumed == rows(output)
    assert len(resumed) == 2 * len(texts())


@pytest.mark.slow
def test_clips_become_tokens(segmented: Segmented, tmp_path: Path) -> None:
    metadata, tokens = segmented.metadata, tmp_path / "tokens.hdf5"
    argv = ["--codec", "melrvq", "--train_data", str(metadata), "--output", str(tokens)]
    assert pretokenize.main([*argv, "--val_data", str(metadata)]) == 0
    split = open_store(tokens).splits["train"]
    assert [split.clip(row).text for row in range(len(split))] == [
        row["text"] for row in rows(metadata)
    ]
