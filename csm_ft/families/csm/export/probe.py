"""The same tokens through two programs: the logits of every codebook, and how far apart they are.

Shapes: L text tokens, T audio frames (the last one is the EOS frame), K codebooks, V audio
vocabulary, N frames of all probes together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from csm_ft.data.split import Split
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.size import CsmSize

# Two programs' fp32 differs by about 1e-6 of the logits' standard deviation. The smallest of the
# known mistakes, a RoPE without Llama 3.1's scaling, makes 1e-2 (rows in another order: 1). This is
# in the middle of the two, on a scale of powers.
TOLERANCE = 1e-3
_MAX_FRAMES = 64  # of a clip: K * V logits each
_NUM_CLIPS = 2


@dataclass(frozen=True)
class Probe:
    """One utterance, teacher-forced: its text and then its frames."""

    text: Tensor  # [L] int64
    codes: Tensor  # [T, K] int64


@dataclass(frozen=True)
class Logits:
    """What a program computes for every frame of the probes."""

    c0: Tensor  # [N, V]
    depth: Tensor  # [N, K-1, V]

    @classmethod
    def join(cls, parts: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """Join the (c0, depth) of several probes, as fp32."""
        c0, depth = zip(*parts, strict=True)
        return cls(torch.cat(c0).float(), torch.cat(depth).float())


@dataclass(frozen=True)
class Difference:
    """Largest differences between two programs' logits, and what they are measured by."""

    c0: float
    depth: float
    c0_spread: float  # standard deviation of the logits
    depth_spread: float

    @property
    def is_same(self) -> bool:
        """Whether both are within TOLERANCE of the spread (not so when a number is not finite)."""
        return self.c0 <= TOLERANCE * self.c0_spread and self.depth <= TOLERANCE * self.depth_spread

    def __str__(self) -> str:
        spread = f"their standard deviations are {self.c0_spread:.2g} and {self.depth_spread:.2g}"
        return f"c0 logits differ by at most {self.c0:.1e}, depth {self.depth:.1e} ({spread})"


def probes_of(split: Split, size: CsmSize) -> list[Probe]:
    """Return the first clips of a split, or seeded random tokens where it has none."""
    rows = range(min(_NUM_CLIPS, len(split)))
    clips = [
        _probe(split.array("text_tokens", row), split.array("codes", row)[:_MAX_FRAMES])
        for row in rows
    ]
    return clips or random_probes(size)


def random_probes(size: CsmSize) -> list[Probe]:
    """Return seeded random tokens: what to compare by where there is no token file."""
    random = np.random.default_rng(0)
    lengths = ((7, 12), (3, 20))
    return [
        _probe(
            random.integers(0, size.text_vocab_size, text),
            random.integers(0, size.audio_vocab_size, (frames, size.num_codebooks)),
        )
        for text, frames in lengths
    ]


@torch.no_grad()
def logits_of(model: CsmModel, probes: Sequence[Probe]) -> Logits:
    """Run our own model over the probes."""
    return Logits.join([_logits(model, probe) for probe in probes])


def difference(expected: Logits, actual: Logits) -> Difference:
    """Compare the logits of two programs for the same probes."""
    return Difference(
        c0=(expected.c0 - actual.c0).abs().max().item(),
        depth=(expected.depth - actual.depth).abs().max().item(),
        c0_spread=expected.c0.std().item(),
        depth_spread=expected.depth.std().item(),
    )


def _probe(text: np.ndarray, codes: np.ndarray) -> Probe:
    frames = np.concatenate([codes, np.zeros_like(codes[:1])])
    return Probe(torch.from_numpy(text.astype(np.int64)), torch.from_numpy(frames.astype(np.int64)))


def _logits(model: CsmModel, probe: Probe) -> tuple[Tensor, Tensor]:
    frames = model.embed_codes(probe.codes)
    embedded = torch.cat([model.text_embeddings(probe.text), frames.sum(1)])
    # Position t predicts the frame at t + 1.
    hidden = model.backbone_hidden(embedded[None])[0, len(probe.text) - 1 : -1]
    return model.codebook0_head(hidden), model.depth_logits(hidden, frames)
