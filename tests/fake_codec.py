"""A codec that takes no time and shows what it was given: codes are checksums of the samples of each frame."""

import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16000


class FakeCodec:
    """4 codebooks, 80 ms frames. A frame of digital silence gets all-zero codes, as a broken codec might give."""

    name = "melrvq"
    source = "fake"
    sample_rate_hz = SAMPLE_RATE_HZ
    frame_samples = 1280
    num_codebooks = 4
    vocab_size = 256

    def __init__(self, version: str = "1", *, pause_sec: float = 0.0, on_batch: Callable[[int], None] = lambda number: None) -> None:
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
        sums = [zlib.crc32(f"{self.version}{k}".encode() + frame.tobytes()) % 255 + 1 for frame in padded for k in range(4)]
        codes = np.array(sums, np.uint16).reshape(-1, 4)
        codes[~padded.any(axis=1)] = 0
        return codes


def write_wave(path: Path, seconds: float, *, seed: int = 0, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1) -> Path:
    """Write noise, another for each seed."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate_hz), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, rate_hz)
    return path
