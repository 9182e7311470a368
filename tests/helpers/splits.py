"""A small in-memory split and model, for tests that need no token file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from csm_ft.data.examples import Examples, arrange
from csm_ft.data.split import Clip
from csm_ft.families.csm.arrange import costs
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
    """Random clips of given numbers of frames; by default each by itself."""

    num_frames: np.ndarray
    num_text_tokens: np.ndarray
    seed: int = 0
    conversations: Sequence[str] = ()
    speakers: Sequence[str] = ()
    turns: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    name: str = "train"

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.ids = [f"clip-{i}" for i in range(len(self.num_frames))]
        self._codes = [random.integers(1, 19, (n, 4)).astype(np.uint16) for n in self.num_frames]
        self._text = [random.integers(0, 40, n).astype(np.uint32) for n in self.num_text_tokens]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_conversations(self) -> bool:
        return any(self.conversations)

    def conversation(self, index: int) -> str:
        return self.conversations[index]

    def clip(self, index: int) -> Clip:
        speaker = self.speakers[index] if self.speakers else ""
        conversation, turn = (
            (self.conversations[index], int(self.turns[index])) if self.conversations else ("", 0)
        )
        return Clip(
            self.ids[index], "", speaker, "", 0.0, 1.0, 1.0, conversation=conversation, turn=turn
        )

    def codes(self, index: int) -> np.ndarray:
        return self._codes[index]

    def text_tokens(self, index: int) -> np.ndarray:
        return self._text[index]


def make_split(frames: list[int], seed: int = 0) -> FakeSplit:
    return FakeSplit(
        np.array(frames), np.random.default_rng(seed).integers(3, 9, len(frames)), seed
    )


def examples_of(split: Any, *, max_positions: int = 2048, loss_turns: str = "all") -> Examples:
    """Arrange a split as a run does."""
    return arrange(split, costs(split), max_positions=max_positions, loss_turns=loss_turns)


def make_model(seed: int = 0) -> CsmModel:
    return random_model(SIZE, seed)
