"""pretokenize.py in tests.

A codec that takes no time and shows what it was given, and a folder to run the program in.
"""

import json
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import pretokenize
from csm_ft.data.token_file import Store, open_store, verify

Json = dict[str, Any]
SAMPLE_RATE_HZ = 16000


class FakeCodec:
    """4 codebooks, 80 ms frames, codes are checksums of the samples.

    Digital silence gets all-zero codes.
    """

    name = "melrvq"
    source = "fake"
    sample_rate_hz = SAMPLE_RATE_HZ
    frame_samples = 1280
    num_codebooks = 4
    vocab_size = 256

    def __init__(
        self,
        version: str = "1",
        *,
        pause_sec: float = 0.0,
        on_batch: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.version, self.pause_sec, self.on_batch = version, pause_sec, on_batch
        self.batches: list[list[int]] = []  # lengths in samples of the waves of each call

    @property
    def fingerprint(self) -> str:
        return f"fake-{self.version}"

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.batches.append([len(wave) for wave in waves])
        time.sleep(self.pause_sec * len(waves))
        self.on_batch(len(self.batches))
        return [self._encode(wave) for wave in waves]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.zeros(len(codes) * self.frame_samples, np.float32)

    def to_bytes(self) -> bytes | None:
        return None

    @property
    def num_encoded(self) -> int:
        return sum(map(len, self.batches))

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        padded = np.pad(wave, (0, -len(wave) % self.frame_samples)).reshape(-1, self.frame_samples)
        sums = [
            zlib.crc32(f"{self.version}{k}".encode() + frame.tobytes()) % 255 + 1
            for frame in padded
            for k in range(4)
        ]
        codes = np.array(sums, np.uint16).reshape(-1, 4)
        codes[~padded.any(axis=1)] = 0
        return codes


def write_wave(
    path: Path, seconds: float, *, seed: int = 0, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1
) -> Path:
    """Write noise, another for each seed."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate_hz), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, rate_hz)
    return path


class Work:
    """A folder with metadata, audio and an output, and the program run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "tokens.hdf5"

    def clips(self, seconds: list[float], *, first: int = 0, **more: Any) -> list[Json]:
        rows = []
        for i, sec in enumerate(seconds, first):
            write_wave(self.folder / f"audio/{i}.wav", sec, seed=i)
            rows.append({"path": f"audio/{i}.wav", "text": f"This is sentence {i}.", **more})
        return rows

    def run(self, train: list[Json], val: list[Json] | None = None, *more: str) -> int:
        argv = [
            "--codec",
            "melrvq",
            "--output",
            str(self.output),
            "--num_workers",
            "2",
            "--device",
            "cpu",
        ]
        for name, rows in (("train", train), ("val", val)):
            if rows is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(rows))
                argv += [f"--{name}_data", str(self.folder / f"{name}.json")]
        return pretokenize.main([*argv, *more])

    def store(self) -> Store:
        assert verify(self.output) == []
        return open_store(self.output)

    def rejected(self) -> list[Json]:
        path = Path(f"{self.output}.rejected.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def report(self) -> Json:
        return json.loads(Path(f"{self.output}.report.json").read_text())
