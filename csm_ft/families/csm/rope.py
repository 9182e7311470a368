"""RoPE as a product of complex numbers: one operation, where torchtune's own takes nine.

Shapes: B sequences, S positions, H heads, E width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torchtune.models.llama3_1 import Llama3ScaledRoPE


class ComplexRoPE(Llama3ScaledRoPE):
    """The rotation of Llama 3, with the angles of torchtune."""

    def build_rope_cache(self, max_seq_len: int = 4096) -> None:
        """Compute the rotation at each position, and those that turn gradients back."""
        super().build_rope_cache(max_seq_len)
        cache: Any = self.cache  # a buffer: [positions, E / 2, 2], cosines and sines
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
    """`rotate` by cosines and sines, [B, S, 1, E / 2, 2]."""
    even, odd = values.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = rotations.unbind(-1)
    turned = torch.stack([even * cosines - odd * sines, odd * cosines + even * sines], dim=-1)
    return turned.flatten(-2).type_as(values)


def rotate_(values: Tensor, rotations: Tensor) -> None:
    """`rotate` in place, without gradients."""
    if values.dtype == torch.float32:
        torch.view_as_complex(values.unflatten(-1, (-1, 2))).mul_(rotations)
    else:
        values.copy_(rotate(values, rotations))


def _complex(table: Tensor) -> Tensor:
    return torch.view_as_complex(table.float())
