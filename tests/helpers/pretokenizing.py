"""pretokenize.py in tests: a family whose encoder takes no time, and a folder to run it in."""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import pretokenize
from csm_ft.config.base import option
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.data import __main__ as data_main
from csm_ft.data.rows import Row
from csm_ft.data.split import ArrayKind, Arrays, Store
from csm_ft.families import open_family, stores
from csm_ft.families.base import Family
from csm_ft.families.encoder import Encoder

Json = dict[str, Any]
SAMPLE_RATE_HZ = 16000
FRAME_SAMPLES = 1280
NUM_SUMS = 4


class FakeConfig(PretokenizeConfig):
    """Options of the fake family."""

    family: str = option("fake", "Model family.", group="data")
    default_speaker: str = option("999", "Speaker of rows that name none.", group="data")
    max_positions: int = option(2048, "Letters + frames + 1 of a clip.", group="checks")


class FakeEncoder(Encoder):
    """80 ms frames; `sums` are checksums of their samples, `peaks` their largest samples.

    `letters` are the code points of `speaker|text`. A frame of digital silence is rejected.
    """

    arrays: Mapping[str, ArrayKind] = {
        "sums": ArrayKind("<u2", NUM_SUMS),
        "peaks": ArrayKind("<f4"),
        "letters": ArrayKind("<u4"),
    }
    sample_rate_hz = SAMPLE_RATE_HZ
    frame_sec = FRAME_SAMPLES / SAMPLE_RATE_HZ
    text_fingerprint = "letters"

    def __init__(
        self,
        version: str = "1",
        *,
        pause_sec: float = 0.0,
        on_batch: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.version, self.pause_sec, self.on_batch = version, pause_sec, on_batch
        self.max_positions = 2048
        self.batches: list[list[int]] = []  # lengths in samples of the waves of each call
        self.fitted_on: list[list[int]] = []  # the same, of each fit

    @property
    def audio_fingerprint(self) -> str:
        return f"fake-{self.version}"

    @property
    def facts(self) -> Mapping[str, str]:
        return {"version": self.version}

    @property
    def assets(self) -> Mapping[str, bytes]:
        return {"version": self.version.encode()}

    @property
    def num_encoded(self) -> int:
        return sum(map(len, self.batches))

    def encode_audio(self, waves: Sequence[np.ndarray]) -> list[Arrays | str]:
        self.batches.append([wave.shape[-1] for wave in waves])
        time.sleep(self.pause_sec * len(waves))
        self.on_batch(len(self.batches))
        return [self._encode(wave) for wave in waves]

    def encode_text(self, row: Row) -> Arrays:
        letters = [ord(letter) for letter in f"{row.speaker or ''}|{row.text}"]
        return {"letters": np.array(letters, np.uint32)}

    def rejects(self, row: Row, lengths: Mapping[str, int]) -> str:
        letters, frames = lengths["letters"], lengths["sums"]
        if letters + frames + 1 <= self.max_positions:
            return ""
        return (
            f"{letters} letters + {frames} frames + 1 are more than --max_positions"
            f" {self.max_positions}; cut the clip"
        )

    def decode(self, arrays: Arrays) -> np.ndarray:
        return np.zeros(len(arrays["sums"]) * FRAME_SAMPLES, np.float32)

    def fit(self, waves: Sequence[np.ndarray]) -> None:
        self.fitted_on.append([wave.shape[-1] for wave in waves])
        self.version = f"fitted on {len(waves)}"

    def restore(self, facts: Mapping[str, Any], assets: Mapping[str, bytes]) -> bool:
        if not str(facts.get("version")).startswith("fitted"):
            return False
        self.version = assets["version"].decode()
        return True

    def _encode(self, wave: np.ndarray) -> Arrays | str:
        wave = wave.reshape(-1, wave.shape[-1])  # [channels, N]
        padded = np.pad(wave, ((0, 0), (0, -wave.shape[1] % FRAME_SAMPLES)))
        frames = padded.reshape(len(wave), -1, FRAME_SAMPLES).swapaxes(0, 1)
        if not frames.any(axis=(1, 2)).all():
            return "a frame is silent; cut the clip differently"
        sums = [
            zlib.crc32(f"{self.version}{k}".encode() + frame.tobytes()) % 65535 + 1
            for frame in frames
            for k in range(NUM_SUMS)
        ]
        return {
            "sums": np.array(sums, np.uint16).reshape(-1, NUM_SUMS),
            "peaks": np.abs(frames).max(axis=(1, 2)),
        }


class FakeFamily(Family):
    """Only what pretokenize.py asks of a family."""

    name = "fake"
    pretokenize_config = FakeConfig

    def __init__(self, encoder: FakeEncoder) -> None:
        self.encoder = encoder

    def open_encoder(self, source: PretokenizeConfig | Store, device: str) -> FakeEncoder:
        if isinstance(source, FakeConfig):
            self.encoder.max_positions = source.max_positions
        return self.encoder


FakeFamily.__abstractmethods__ = frozenset()


def use_fake_family(
    encoder: FakeEncoder, patch: Callable[[object, str, object], None] = setattr
) -> None:
    """Let the programs that read token files know a family `fake` with this encoder."""

    def open_one(name: str) -> Family:
        return FakeFamily(encoder) if name == "fake" else open_family(name)

    for module in (pretokenize, stores, data_main):
        patch(module, "open_family", open_one)


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
        self.flags = ["--family", "fake"]

    def clips(self, seconds: list[float], *, first: int = 0, **more: Any) -> list[Json]:
        rows = []
        for i, sec in enumerate(seconds, first):
            write_wave(self.folder / f"audio/{i}.wav", sec, seed=i)
            rows.append({"path": f"audio/{i}.wav", "text": f"This is sentence {i}.", **more})
        return rows

    def command(self) -> list[str]:
        """Return the flags of every run."""
        output = ["--output", str(self.output)]
        return [*self.flags, *output, "--num_workers", "2", "--device", "cpu"]

    def run(self, train: list[Json], val: list[Json] | None = None, *more: str) -> int:
        argv = self.command()
        for name, rows in (("train", train), ("val", val)):
            if rows is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(rows))
                argv += [f"--{name}_data", str(self.folder / f"{name}.json")]
        return pretokenize.main([*argv, *more])

    def store(self) -> Store:
        assert stores.verify(self.output) == []
        return stores.open_store(self.output)

    def rejected(self) -> list[Json]:
        path = Path(f"{self.output}.rejected.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def report(self) -> Json:
        return json.loads(Path(f"{self.output}.report.json").read_text())
