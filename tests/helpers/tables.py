"""Clips in plain lists, to be written as a token file: the obvious slow version of a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import ArrayKind, Clip, StoreInfo
from csm_ft.data.token_file import write_store

FACTS = {
    "codec": "melrvq",
    "codec_source": "x",
    "codec_fingerprint": "c0dec",
    "num_codebooks": 4,
    "codec_vocab_size": 256,
    "sample_rate_hz": 16000,
    "frame_samples": 1280,
    "tokenizer": "t",
    "tokenizer_fingerprint": "t0ken",
    "text_vocab_size": 400,
    "template": "[{speaker}]{text}",
}
INFO = StoreInfo(
    family="csm",
    arrays={"codes": ArrayKind("<u2", 4), "text_tokens": ArrayKind("<u4")},
    sample_rate_hz=16000,
    frame_sec=0.08,
    audio_fingerprint="c0dec",
    text_fingerprint="t0ken",
    facts=FACTS,
)
OTHER_INFO = StoreInfo(  # of a family as unlike CSM as can be
    family="toy",
    arrays={"samples": ArrayKind("<i2", 2), "letters": ArrayKind("|u1")},
    sample_rate_hz=48000,
    frame_sec=1 / 48000,
    audio_fingerprint="stereo",
    text_fingerprint="bytes",
    facts={"alphabet": "bytes", "mean": -0.25, "order": 3},
)
ASSETS = {"codec": b"\x00codec\xff", "tokenizer": b"{}"}


@dataclass
class Table:
    """Clips with their arrays."""

    columns: Mapping[str, Sequence[NDArray[Any]]]
    clips: Sequence[Clip]

    def __len__(self) -> int:
        return len(self.clips)

    def lengths(self, array: str) -> NDArray[np.int64]:
        return np.array([len(rows) for rows in self.columns[array]], np.int64)

    def array(self, name: str, index: int) -> NDArray[Any]:
        return self.columns[name][index]

    def clip(self, index: int) -> Clip:
        return self.clips[index]


def make_table(frames: Sequence[int], seed: int = 0, texts: Sequence[str] | None = None) -> Table:
    """Random clips of CSM."""
    random = np.random.default_rng(seed)
    codes = [random.integers(1, 256, (n, 4)).astype(np.uint16) for n in frames]
    tokens = [random.integers(0, 400, 3 + n % 5).astype(np.uint32) for n in frames]
    clips = [
        Clip(
            f"id-{seed}-{i}",
            texts[i] if texts else f"Grüße {i}",
            "7",
            f"a{i}.wav",
            0.5,
            0.5 + n * 0.08,
            n * 0.08,
        )
        for i, n in enumerate(frames)
    ]
    return Table({"codes": codes, "text_tokens": tokens}, clips)


def write(
    path: Path, train: Table | None = None, val: Table | None = None, info: StoreInfo = INFO
) -> Path:
    """Write a token file of CSM; three training clips and one to validate unless they are given."""
    train = make_table([3, 1, 7]) if train is None else train
    val = make_table([2], seed=1) if val is None else val
    write_store(path, info, {"train": train, "val": val}, ASSETS)
    return path
