"""From examples to a micro-batch: clips one behind another in one waveform, tokens packed.

Every clip begins at a multiple of 384 samples, the stride of the whole front end, so that the
frames of the packed waveform are those of the clips; frames that reach into the next clip are left
out. Shapes as in model.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.data.examples import Examples, Piece
from csm_ft.data.split import Split
from csm_ft.families.base import Draw
from csm_ft.families.joined import joined_places, joined_rows, joined_totals, starts_of
from csm_ft.families.model import Batch
from csm_ft.families.moonshine.arrange import tokens_of
from csm_ft.families.moonshine.augment import augment, augments
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.model import Layout
from csm_ft.families.moonshine.size import (
    CONVOLUTIONS,
    END,
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    START,
    conv_lengths,
)

_FULL_SCALE = 32768.0  # of int16
_CONV_SAMPLES = CONVOLUTIONS[0][1]  # samples per frame of the first convolution


@dataclass
class MoonshineBatch(Batch):
    """One micro-batch; inputs and targets are aligned, target i follows input i."""

    num_sequences: int  # B
    samples: Tensor  # [N] fp32
    clip_starts: Tensor  # [B] int64, in samples
    clip_lengths: Tensor  # [B] int64, in samples
    conv_rows: Tensor  # [G] int64, frames of the first convolution that lie within a clip
    conv_clips: Tensor  # [G] int64, 0..B-1
    conv_lengths: Tensor  # [B] int64
    frame_rows: Tensor  # [F] int64, frames of the last convolution that lie within a clip
    frame_places: Tensor  # [F] int64, clip * frame_width + position
    frame_width: int
    inputs: Tensor  # [L] int64, <s> and the tokens
    targets: Tensor  # [L] int64, the tokens and </s>
    token_places: Tensor  # [L] int64, clip * token_width + position
    token_width: int
    # Of training; [L] where those of several runs are joined.
    label_smoothing: float | Tensor = field(default=0.0, kw_only=True)
    # Frames of each of several runs that are joined, where the model says so.
    frames_of_runs: Sequence[int] = field(default=(), kw_only=True)

    def frame_layout(self) -> Layout:
        """Where encoder frames stand for attention."""
        return Layout(self.frame_places, self.num_sequences, self.frame_width)

    def token_layout(self) -> Layout:
        """Where text tokens stand for attention."""
        return Layout(self.token_places, self.num_sequences, self.token_width)


@dataclass
class Sound:
    """Clips as one waveform, and which frames of the convolutions are theirs."""

    samples: list[NDArray[np.float32]] = field(default_factory=list)
    conv_rows: list[NDArray[np.int64]] = field(default_factory=list)
    frame_rows: list[NDArray[np.int64]] = field(default_factory=list)
    num_samples: int = 0

    def add(self, samples: NDArray[np.int16]) -> None:
        """Add a clip of int16 samples [n], padded to a multiple of the front end's stride."""
        padding = -len(samples) % FRAME_SAMPLES
        self.samples.append(np.pad(samples.astype(np.float32) / _FULL_SCALE, (0, padding)))
        conv, _, frames = conv_lengths(len(samples))
        self.conv_rows.append(self.num_samples // _CONV_SAMPLES + np.arange(conv))
        self.frame_rows.append(self.num_samples // FRAME_SAMPLES + np.arange(frames))
        self.num_samples += len(samples) + padding


def collate(
    examples: Examples, indices: Sequence[int], config: MoonshineConfig, *, draw: Draw | None
) -> MoonshineBatch:
    """Make the micro-batch of `indices`; draw=None: the sound as it is."""
    sounds, texts = [], []
    pieces_of = [list(examples.of(index)) for index in indices]
    rows = [piece.row for pieces in pieces_of for piece in pieces]
    samples = examples.split.many("samples", rows, config.decode_workers)
    for place, pieces in enumerate(pieces_of):
        sound = np.concatenate([samples[one.row][one.start : one.stop] for one in pieces])
        tokens = _text(examples.split, pieces)
        if draw is not None and augments(config):
            first = pieces[0]
            key = f"{draw.key(place)}/{examples.split.clip_id(first.row)}/{first.start}"
            sound = augment(sound, config, key)
        sounds.append(sound)
        texts.append(tokens)
    batch = collate_clips(sounds, texts)
    batch.label_smoothing = config.label_smoothing if draw is not None else 0.0
    return batch


def join(batches: Sequence[MoonshineBatch]) -> MoonshineBatch:
    """Return the micro-batches of several runs as one, on their device."""
    clips, samples = [b.num_sequences for b in batches], [len(b.samples) for b in batches]
    conv_starts = [start // _CONV_SAMPLES for start in starts_of(samples)]
    frame_starts = [start // FRAME_SAMPLES for start in starts_of(samples)]
    frame_widths, token_widths = [b.frame_width for b in batches], [b.token_width for b in batches]
    return MoonshineBatch(
        **joined_totals(batches),
        num_padded=sum(batch.num_padded for batch in batches),
        num_sequences=sum(clips),
        samples=torch.cat([b.samples for b in batches]),
        clip_starts=joined_rows([b.clip_starts for b in batches], starts_of(samples)),
        clip_lengths=torch.cat([b.clip_lengths for b in batches]),
        conv_rows=joined_rows([b.conv_rows for b in batches], conv_starts),
        conv_clips=joined_rows([b.conv_clips for b in batches], starts_of(clips)),
        conv_lengths=torch.cat([b.conv_lengths for b in batches]),
        frame_rows=joined_rows([b.frame_rows for b in batches], frame_starts),
        frame_places=joined_places([b.frame_places for b in batches], frame_widths, clips),
        frame_width=max(frame_widths),
        inputs=torch.cat([b.inputs for b in batches]),
        targets=torch.cat([b.targets for b in batches]),
        token_places=joined_places([b.token_places for b in batches], token_widths, clips),
        token_width=max(token_widths),
        label_smoothing=_joined_smoothing(batches),
    )


def _joined_smoothing(batches: Sequence[MoonshineBatch]) -> float | Tensor:
    shares = [batch.label_smoothing for batch in batches]
    if len(set(shares)) == 1:
        return shares[0]
    each = [torch.as_tensor(b.label_smoothing).expand(len(b.targets)) for b in batches]
    return torch.cat(each).to(batches[0].targets.device)


def _text(split: Split, pieces: Sequence[Piece]) -> NDArray[np.uint32]:
    """Return the tokens of an example, with one </s> at the end."""
    tokens = np.concatenate([tokens_of(split, piece) for piece in pieces])
    return np.append(tokens[tokens != END], np.uint32(END))


def collate_clips(
    clips: Sequence[NDArray[np.int16]], tokens: Sequence[NDArray[np.uint32]]
) -> MoonshineBatch:
    """Make a micro-batch of clips [n] and their tokens [l], which end with the end token."""
    sound = Sound()
    for clip in clips:
        sound.add(clip)
    conv_lengths_ = np.array([len(rows) for rows in sound.conv_rows])
    frame_lengths = [len(rows) for rows in sound.frame_rows]
    token_lengths = [len(ids) for ids in tokens]
    num_positions = sum(frame_lengths) + sum(token_lengths)
    return MoonshineBatch(
        counts={"tokens": torch.tensor(token_lengths)},
        audio_sec=sum(map(len, clips)) / SAMPLE_RATE_HZ,
        num_positions=num_positions,
        # Packed: what is computed beyond the clips is the tail of the waveform up to its stride.
        num_padded=num_positions
        + sum(-len(clip) % FRAME_SAMPLES for clip in clips) // FRAME_SAMPLES,
        num_sequences=len(clips),
        samples=torch.from_numpy(np.concatenate(sound.samples)),
        clip_starts=torch.from_numpy(np.cumsum([0, *map(len, sound.samples[:-1])])),
        clip_lengths=torch.tensor([len(clip) for clip in clips]),
        conv_rows=_int64(sound.conv_rows),
        conv_clips=torch.from_numpy(np.repeat(np.arange(len(clips)), conv_lengths_)),
        conv_lengths=torch.from_numpy(conv_lengths_),
        frame_rows=_int64(sound.frame_rows),
        frame_places=_places(frame_lengths),
        frame_width=max(frame_lengths),
        inputs=_int64([np.concatenate([[START], ids[:-1]]) for ids in tokens]),
        targets=_int64(tokens),
        token_places=_places(token_lengths),
        token_width=max(token_lengths),
    )


def _places(lengths: Sequence[int]) -> Tensor:
    width = max(lengths)
    return _int64([number * width + np.arange(length) for number, length in enumerate(lengths)])


def _int64(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))
