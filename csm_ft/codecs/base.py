"""The interface of an audio codec: waves to frames of K codes, and back."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]  # [samples], mono, -1..1, at the codec's sample rate
Codes = NDArray[np.uint16]  # [T, K], frame-major


class Codec(Protocol):
    """A frozen audio codec; one frame is `frame_samples` samples and K codes."""

    name: str  # "mimi", "melrvq"
    source: str  # hub name, folder or file it came from
    sample_rate_hz: int
    frame_samples: int
    num_codebooks: int
    vocab_size: int  # ids per codebook in the model's tables, including the ids kept free

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the codes; part of every clip's id."""
        ...

    def encode(self, waves: Sequence[Wave]) -> list[Codes]:
        """Encode waves of any lengths as one batch.

        Each wave gives ceil(samples / frame_samples) frames, the same as when it is encoded alone.
        """
        ...

    def decode(self, codes: Codes) -> Wave:
        """Decode [T, K] codes to T * frame_samples samples."""
        ...

    def to_bytes(self) -> bytes | None:
        """Return the codec as a safetensors blob; None if it is too large for the token file."""
        ...
