"""RoPE as a product of complex numbers: one operation, where torchtune's own takes nine.

Shapes: B sequences, S positions, H heads, E width of a head.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

# Of Llama 3.1: waves longer than the context that it was pretrained on are stretched, short ones
# are left alone, and those between are blended.
_OLD_CONTEXT, _LOW_FREQUENCY, _HIGH_FREQUENCY = 8192, 1, 4


class ComplexRoPE(nn.Module):
    """The rotation of Llama 3.

    The tables are on the CPU even where the model is built on the meta device, which has no values.
    """

    def __init__(self, dim: int, num_positions: int, base: int, scale: int) -> None:
        super().__init__()
        frequencies = _frequencies(dim, base, scale)
        angles = torch.outer(
            torch.arange(num_positions, dtype=torch.float32, device="cpu"), frequencies
        )
        cache = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
        self.register_buffer("cache", cache, persistent=False)  # [positions, E / 2, 2]
        # Those that turn gradients back.
        self.register_buffer("back", cache * cache.new_tensor([1.0, -1.0]), persistent=False)

    def forward(self, x: Tensor, *, input_pos: Tensor | None = None) -> Tensor:
        """Rotate [B, S, H, E] by the positions `input_pos` [B, S], by default 0, 1, 2, ..."""
        tables: Any = self.cache, self.back
        if torch.compiler.is_compiling():  # which knows no complex numbers
            table = tables[0][None, : x.shape[1]] if input_pos is None else tables[0][input_pos]
            return _rotate_real(x, table[:, :, None].float())
        if input_pos is None:
            there, back = (_complex(table)[None, : x.shape[1], None] for table in tables)
        else:
            there, back = (_complex(table)[input_pos][:, :, None] for table in tables)
        turned: Tensor = _Rotation.apply(x, there, back)  # pyright: ignore[reportAssignmentType]
        return turned

    @property
    def rotations(self) -> Tensor:
        """The rotation at each position, complex [positions, E / 2]."""
        cache: Any = self.cache
        return _complex(cache)


def _frequencies(dim: int, base: int, scale: int) -> Tensor:
    """Return the angle from one position to the next for each pair of a head, [dim / 2]."""
    plain = 1.0 / (base ** (torch.arange(0, dim, 2, device="cpu").float() / dim))
    waves = _OLD_CONTEXT / (2 * math.pi / plain)  # in the old context
    blend = (waves - _LOW_FREQUENCY) / (_HIGH_FREQUENCY - _LOW_FREQUENCY)
    blended = (1 - blend) * plain / scale + blend * plain
    scaled = torch.where(waves < _LOW_FREQUENCY, plain / scale, blended)
    return torch.where(waves > _HIGH_FREQUENCY, plain, scaled)


class _Rotation(torch.autograd.Function):
    """`rotate`, whose gradient is turned back by a table: autograd would conjugate it each time."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rotations: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rotate(values, rotations)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return rotate(grads[0], *ctx.saved_tensors), None, None


def rotate(values: Tensor, rotations: Tensor) -> Tensor:
    """Turn pairs of neighbours in [B, S, H, E] by `rotations` [B, S, 1, E / 2], in fp32."""
    pairs = torch.view_as_complex(values.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).type_as(values)


def _rotate_real(values: Tensor, rotations: Tensor) -> Tensor:
    """`rotate` by cosines and sines, [B, S, 1, E / 2, 2]: one kernel in each direction.

    Halves that are computed apart, and stacked, would be written and read once more.
    """
    pairs = values.float().unflatten(-1, (-1, 2))
    cosines, sines = rotations.split(1, dim=-1)
    signs = 2 * torch.arange(2, device=values.device) - 1
    turned = pairs * cosines + pairs.flip(-1) * (signs * sines)
    return turned.flatten(-2).type_as(values)


def rotate_(values: Tensor, rotations: Tensor) -> None:
    """`rotate` in place, without gradients."""
    if values.dtype == torch.float32:
        torch.view_as_complex(values.unflatten(-1, (-1, 2))).mul_(rotations)
    else:
        values.copy_(rotate(values, rotations))


def _complex(table: Tensor) -> Tensor:
    return torch.view_as_complex(table.float())
