"""The torch half of the contract: micro-batches, losses and models."""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from csm_ft.errors import WeightsError, first_line
from csm_ft.families.base import Prompt, Sample, SamplingOptions

# Per part: nats summed per sequence, [B] fp32; never a mean. Of a batch that is an estimate, beside
# each part whose targets were drawn its `<part>_variance`, [B].
Loss = Mapping[str, Tensor]


@dataclass
class Batch:
    """One micro-batch of B sequences; families add their tensors in a subclass."""

    counts: dict[str, Tensor]  # per part: true number of targets per sequence, [B] int64, CPU
    audio_sec: float  # sound that is trained on
    num_positions: int  # real positions, without padding
    num_padded: int  # B * longest
    # Whether it is one of validation that scores a share of the targets.
    is_estimate: bool = field(default=False, kw_only=True)

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with its tensors (but not its counts) on `device`."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return type(self)(**{**vars(self), **moved})

    def as_filler(self) -> Self:
        """Return the batch as one that counts nothing, for a rank that has nothing else to do."""
        zeros = {part: torch.zeros_like(count) for part, count in self.counts.items()}
        return replace(self, counts=zeros, audio_sec=0.0, num_positions=0, num_padded=0)

    @property
    def micro_batch_tokens(self) -> int:
        """The positions that the option micro_batch_tokens counts: with padding."""
        return self.num_padded

    @property
    def has_targets(self) -> bool:
        """Whether anything of it is counted in a loss."""
        return any(bool(count.any()) for count in self.counts.values())


@dataclass(frozen=True)
class JoinedBatch:
    """The batches of several runs as one; the sequences of each run follow each other."""

    batch: Batch
    # By the beginning of modules' names: of the first dimension of their inputs, the rows of each
    # run.
    rows: Mapping[str, Sequence[int]]


class SpeechModel(nn.Module):
    """A trainable model; the loss is in `forward`, so that DDP and FSDP2 see it."""

    block_classes: ClassVar[tuple[type[nn.Module], ...]] = ()  # what is sharded or compiled
    fp32_weights: ClassVar[tuple[str, ...]] = ()  # beginnings of names: never kept in bf16
    max_positions: int = 0  # longest sequence; 0 = no limit
    base_fingerprint: str = ""  # of the frozen weights, once there are adapters beside them
    # Of embedding tables, by their names: the rows that training reads, [U]. No others are trained
    # (trained_rows.py). Tables that are not named are trained whole, and those beside adapters.
    read_rows: Mapping[str, Tensor] = MappingProxyType({})

    def forward(self, batch: Any) -> Loss:
        """Return the nats of each part, summed per sequence."""
        raise NotImplementedError

    def join_weights(self) -> None:
        """Arrange weights in memory so that passes need fewer operations; values and names stay.

        Called once they are on their device; sharded weights and adapters are left as they are.
        """

    def join_batches(self, batches: Sequence[Any]) -> JoinedBatch:
        """Return several micro-batches as one, of which each sequence has the loss it had.

        Without it, adapters cannot be trained side by side (families/lanes.py).
        """
        raise NotImplementedError

    def sample(
        self, prompts: Sequence[Prompt], encoder: Any, options: SamplingOptions
    ) -> list[Sample]:
        """Answer all prompts as one batch; `encoder` is the family's own.

        Leaves mode, caches and random state as they were.
        """
        raise NotImplementedError


class EmptyEmbedding(nn.Embedding):
    """An embedding that draws no values when it is made.

    On the meta device it has none, and to draw them would import torch.compile, for a second.
    """

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


def check_tensors(
    expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], where: str, *, way_out: str
) -> None:
    """Raise WeightsError for tensors that are missing, unknown, or of another shape."""
    missing = sorted(expected.keys() - actual.keys())
    unknown = sorted(actual.keys() - expected.keys())
    if missing or unknown:
        raise WeightsError(
            f"{where}: not the tensors of this model: {len(missing)} tensors missing (e.g."
            f" {missing[:2]}), {len(unknown)} unknown (e.g. {unknown[:2]}); {way_out}"
        )
    for name, tensor in expected.items():
        if tensor.shape != actual[name].shape:
            raise WeightsError(
                f"{where}: {name} is {tuple(actual[name].shape)}, a model of this size wants"
                f" {tuple(tensor.shape)}; {way_out}"
            )


def save_tensors(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write tensors as a safetensors file; OSError when it cannot be written."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, metadata=metadata or None)
    except SafetensorError as error:
        # It has no errno; callers must be able to tell a full disk from a mistake of their own.
        raise OSError(errno.EIO, first_line(error)) from error
