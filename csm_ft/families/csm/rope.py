"""RoPE as a product of complex numbers: one operation, where torchtune's own takes nine.

Shapes: B sequences, S positions, H heads, E width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torchtune.models.llama3_1 import Llama3ScaledRoPE


class ComplexRoPE(Llama3ScaledRoPE):
    """The rotation of Llama 3, with the angles of torchtune."""

    def forward(self, x: Tensor, *, input_pos: Tensor | None = None) -> Tensor:
        """Rotate [B, S, H, E] by the positions `input_pos` [B, S], by default 0, 1, 2, ..."""
        rotations = self.rotations
        if input_pos is None:
            return rotate(x, rotations[None, : x.shape[1], None])
        return rotate(x, rotations[input_pos][:, :, None])

    @property
    def rotations(self) -> Tensor:
        """The rotation at each position, complex [positions, E / 2]."""
        cache: Any = self.cache  # a buffer: [positions, E / 2, 2]
        return torch.view_as_complex(cache.float())


def rotate(values: Tensor, rotations: Tensor) -> Tensor:
    """Turn pairs of neighbours in [B, S, H, E] by `rotations` [B, S, 1, E / 2], in fp32."""
    pairs = torch.view_as_complex(values.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).type_as(values)
