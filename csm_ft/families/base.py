"""The contract between the loop and a model family.

The loop in train.py knows no model, no part of a loss and no layout of tokens; all of that stands
behind these few types. Shapes: B sequences in a micro-batch, S padded positions, K codebooks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from csm_ft.config import TrainConfig
from csm_ft.data.examples import Examples

Loss = Mapping[str, Tensor]  # per part: nats summed per sequence, [B] fp32; never a mean


@dataclass(frozen=True)
class Draw:
    """Key of the random choices made in collate.

    The choice for an example depends on nothing else.
    """

    seed: int
    epoch: int


@dataclass
class Batch:
    """One micro-batch; families add their tensors in a subclass."""

    counts: dict[
        str, Tensor
    ]  # per part: true number of targets per sequence, [B] int64, on the CPU
    num_positions: int  # real positions, without padding
    num_padded: int  # B * S

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors (but not its counts) on `device`."""
        moved = {
            k: v.to(device, non_blocking=True)
            for k, v in vars(self).items()
            if isinstance(v, Tensor)
        }
        return type(self)(**{**vars(self), **moved})


@dataclass(frozen=True)
class Turn:
    """What was said before, and how it sounds."""

    text: str
    speaker: str  # "" = none
    codes: NDArray[np.uint16]  # [T, K], without the EOS frame


@dataclass(frozen=True)
class Prompt:
    """What to speak: a text, who speaks it, and what was said before."""

    id: str  # hash of the prompt; the name of its folder of samples
    text: str
    speaker: str  # "" = none
    context: tuple[Turn, ...] = ()  # oldest first


@dataclass(frozen=True)
class Sample:
    """What the model said."""

    prompt: Prompt
    codes: NDArray[np.uint16]  # [T, K], without the EOS frame
    stopped_by_eos: bool
    turns_left_out: int = 0  # oldest turns of the context that the model had no room for


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample; temperature 0 is greedy, topk 0 keeps all."""

    max_frames: int
    temperature: float
    topk: int
    seed: int


class SpeechModel(nn.Module):
    """A trainable model.

    Loss in `forward` (so that DDP and FSDP2 see it), sampling without traces.
    """

    block_classes: ClassVar[tuple[type[nn.Module], ...]]
    base_fingerprint: str = (
        ""  # of the frozen weights, once there are adapters beside them (csm_ft/families/lora.py)
    )

    def forward(self, batch: Any) -> Loss:
        """Return the nats of each part, summed per sequence."""
        raise NotImplementedError

    def sample(
        self, prompts: Sequence[Prompt], *, tokenizer: Any, options: SamplingOptions
    ) -> list[Sample]:
        """Speak all prompts as one batch; leaves the model as it found it."""
        raise NotImplementedError


class Family(Protocol):
    """The plain functions of a family, as a module-like object (families/<name>/__init__.py)."""

    def build_model(self, config: TrainConfig, store: Any) -> SpeechModel:
        """Build the model in fp32 on the CPU with base or random weights.

        Raises ConfigError when they do not fit the store.
        """
        ...

    def collate(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig, *, draw: Draw | None
    ) -> Batch:
        """Make one micro-batch; draw=None scores every frame (evaluation)."""
        ...

    def part_weights(self, config: TrainConfig) -> dict[str, float]:
        """Weight of each part's mean in the training loss."""
        ...

    def yardstick_weights(self) -> dict[str, float]:
        """Weight of each part's mean in the validation loss that trials are compared by.

        Free of every swept parameter.
        """
        ...

    def learning_rate_factor(self, config: TrainConfig, name: str) -> float:
        """Learning rate of a parameter as a multiple of config.learning_rate; 0 = frozen."""
        ...

    def lora_modules(self, config: TrainConfig) -> str:
        """Regular expression of the modules that get adapters."""
        ...

    def default_base(self, store: Any) -> str:
        """Return the weights that a store is fine-tuned from when none are named."""
        ...

    def checkpoint_config(self, model: Any) -> Mapping[str, object]:
        """Return config.json of a checkpoint."""
        ...


@dataclass
class Tally:
    """Sums and counts of loss parts; means come last."""

    nats: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, part: str, nats: float, count: int) -> None:
        """Add one batch's sum and count."""
        self.nats[part] = self.nats.get(part, 0.0) + nats
        self.counts[part] = self.counts.get(part, 0) + count

    def means(self) -> dict[str, float]:
        """Return nats per target for each part."""
        return {part: self.nats[part] / max(1, self.counts[part]) for part in self.nats}
