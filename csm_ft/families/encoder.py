"""What turns sound and text into the arrays of a token file, and back: a part of the contract.

Imports no torch. Shapes: C channels, N samples, T rows of an array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from csm_ft.errors import DataError

if TYPE_CHECKING:  # so that --help imports neither numpy nor torch
    import numpy as np
    from numpy.typing import NDArray

    from csm_ft.data.audio import Wave
    from csm_ft.data.rows import Row
    from csm_ft.data.split import ArrayKind, Arrays
    from csm_ft.datasets.words import WordLists
    from csm_ft.families.base import Sample


class Segment(NamedTuple):
    """A row of metadata as a part of a longer clip: rows [start, stop) of its first array."""

    start: int
    stop: int
    text: Arrays  # as Encoder.encode_text returned it


class Caption(NamedTuple):
    """A word of a sample as text that runs along with its sound."""

    start_sec: float  # in the sound, where it begins
    text: str  # with the blank before it, where there is one


class Encoder(ABC):
    """Turns sound and text into the arrays of a token file, and back; frozen while it does so.

    Arrays, sample_rate_hz and frame_sec are known before an encoder is fitted.
    """

    arrays: Mapping[str, ArrayKind]  # what a clip keeps; the first one is what pieces are cut from
    sample_rate_hz: int
    frame_sec: float  # seconds of sound per row of the first array
    channels: Literal["mono", "both"] = "mono"  # both: waves are [2, N], and mono files rejected
    audio_fingerprint: str  # with the sound it makes a clip's id, which names its cached arrays
    text_fingerprint: str  # keyed apart: another transcript encodes no sound again
    facts: Mapping[str, str | int | float]  # kept in the token file, for Family.open_encoder
    assets: Mapping[str, bytes]  # small files that travel inside the token file
    columns: Sequence[str] = ()  # further columns of the metadata that a text is made of: tags
    # Where the words of rows are, if it needs their times. Rows without are given them, evenly.
    word_lists: WordLists | None = None
    # With channels both: files of one channel, or of two alike, are left, beside silence.
    fills_channels: bool = False
    mono_hint: str = ""  # what to do about mono files where they are rejected
    fit_sec: float = 0.0  # seconds of training sound that `fit` wants before encoding; 0 = none
    # Training rows of one recording that lie this close together are kept as one clip, the sound
    # between them included; 0 = each row is a clip, and join_text is never called.
    max_gap_sec: float = 0.0

    # An array of the sound that the token file leaves out: it is made again from the source files
    # whenever it is read, by what `reader` returns. "" = all are kept.
    referenced: str = ""

    @abstractmethod
    def encode_audio(self, waves: Sequence[Wave]) -> list[Arrays | str]:
        """Encode waves ([N], or [2, N]) as one batch; the expensive half, cached by clip.

        A str in the place of arrays is the reason why that wave cannot be used.
        """

    @abstractmethod
    def encode_text(self, row: Row) -> Arrays | str:
        """Return the arrays that come from a row's text; cheap, made again in every run.

        A str in their place is the reason why the row cannot be used. Two threads call it at the
        same time.
        """

    def rejects(self, row: Row, lengths: Mapping[str, int]) -> str:
        """Return why a row cannot be used, or "".

        `lengths` are the rows of each array: expected before the sound is encoded, then true ones.
        Two threads call it at the same time.
        """
        return ""

    def reader(self) -> Callable[[Wave], NDArray[Any]]:
        """Return what makes the array `referenced` of a wave; worker processes import it."""
        raise NotImplementedError

    def join_text(self, segments: Sequence[Segment]) -> Arrays:
        """Return the text arrays of a clip that is made of one or several rows, in order."""
        raise NotImplementedError

    @abstractmethod
    def decode(self, arrays: Arrays) -> Wave | None:
        """Return the sound of a clip's (or a sample's) arrays; None if there is none.

        [N], or [2, N] for both sides of a dialogue.
        """

    def tokens_of(self, sample: Sample) -> NDArray[np.int64] | None:
        """Return what the model generated, [streams, frames], without its prompt; None = nothing.

        By default the first array of the sample.
        """
        codes = sample.arrays.get(next(iter(self.arrays)))
        return None if codes is None else codes.reshape(len(codes), -1).T.astype("int64")

    def arrays_of(self, tokens: NDArray[np.int64]) -> Arrays:
        """Return the arrays for `decode` of what `tokens_of` gave; DataError if they do not fit."""
        name, kind = next(iter(self.arrays.items()))
        if len(tokens) != max(1, kind.width):
            raise DataError(f"has {len(tokens)} streams of tokens, not {max(1, kind.width)}")
        return {name: tokens.T.astype(kind.dtype)}

    def measure(self, sample: Sample, wave: Wave) -> Mapping[str, float]:
        """Return what only the family measures on the sound of a sample, as `decode` gives it."""
        return {}

    def prompt_sec(self, sample: Sample) -> float:
        """Return the seconds at the beginning of a sample's sound that the prompt gave."""
        return 0.0

    def captions(self, sample: Sample) -> Sequence[Caption]:
        """Return the words of a sample with their times; () where these are not known."""
        return ()

    def said(self, sample: Sample, wave: Wave) -> tuple[str, Wave]:
        """Return the text that a recogniser should hear in a sample, and the sound of it, [N]."""
        return sample.prompt.text, wave

    def fit_text(self, rows: Sequence[Row]) -> None:  # noqa: B027 - few encoders are fitted
        """Fit the text half on the training rows, before any is encoded."""

    def fit(self, waves: Sequence[Wave]) -> None:  # noqa: B027
        """Fit the encoder on `fit_sec` seconds of training sound."""

    def restore(self, facts: Mapping[str, Any], assets: Mapping[str, bytes]) -> bool:
        """Take what an earlier run fitted, from its facts and assets; tell whether that worked."""
        return False

    def describe(self) -> list[str]:
        """Return lines for people: what encodes, and what to know of it."""
        return []
