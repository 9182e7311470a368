"""A small in-memory split and model, for tests that need no token file."""

from dataclasses import dataclass

import numpy as np

from csm_ft.families.csm.config import CsmSize, TransformerSize
from csm_ft.families.csm.model import CsmModel, random_model

SIZE = CsmSize(
    TransformerSize(layers=2, heads=4, kv_heads=2, dim=32, ffn_dim=48),
    TransformerSize(layers=1, heads=2, kv_heads=1, dim=16, ffn_dim=24),
    40,
    19,
    4,
)


@dataclass
class FakeSplit:
    """Random clips of given numbers of frames."""

    num_frames: np.ndarray
    num_text_tokens: np.ndarray
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.ids = [f"clip-{i}" for i in range(len(self.num_frames))]
        self._codes = [random.integers(1, 19, (n, 4)).astype(np.uint16) for n in self.num_frames]
        self._text = [random.integers(0, 40, n).astype(np.uint32) for n in self.num_text_tokens]

    def __len__(self) -> int:
        return len(self.ids)

    def codes(self, index: int) -> np.ndarray:
        return self._codes[index]

    def text_tokens(self, index: int) -> np.ndarray:
        return self._text[index]


def make_split(frames: list[int], seed: int = 0) -> FakeSplit:
    return FakeSplit(np.array(frames), np.random.default_rng(seed).integers(3, 9, len(frames)), seed)


def make_model(seed: int = 0) -> CsmModel:
    return random_model(SIZE, seed)
