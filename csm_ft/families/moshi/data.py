"""From examples to a Moshi micro-batch: windows of dialogues, text laid over their frames.

A window of n frames becomes n columns and, where the longest window allows it, one more for each
frame of the largest delay: rows that are late end there. The last frames of a full window have
codes that no column predicts, as in the moshi package. One sequence with a delay of 1 for all
codebooks but the first, n = 3; the first column is the initial one, - is no token:

    column    0    1    2    3    4
    text     ini   t0   t1   t2   -
    c0       ini   a0   a1   a2   -
    c1       ini  ini   b0   b1   b2

Shapes as in model.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from csm_ft.data.examples import Examples, Piece
from csm_ft.data.split import Split
from csm_ft.families.base import Draw
from csm_ft.families.drawn import keyed_generator, num_drawn
from csm_ft.families.joined import joined_places, joined_rows, joined_totals, starts_of
from csm_ft.families.model import Batch, JoinedBatch
from csm_ft.families.moshi.arrange import LEFT, shifted
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.interleave import Interleaver, timed_tokens
from csm_ft.families.moshi.model import part_of
from csm_ft.families.moshi.size import ZERO, delays_of


@dataclass
class MoshiBatch(Batch):
    """Parts of the loss: text, text_padding and text_end (its ids), c0, acoustic; user_c0, ...

    A model that does not predict the user leaves out the user's parts of the loss.
    """

    num_sequences: int  # B
    codes: Tensor  # [B, R, S] int64, -1 = none
    rows: Tensor  # [N] int64, flat places (sequence * S + column) of real columns
    sequence: Tensor  # [N] int64
    depth_places: Tensor  # [M] int64, entries of `rows` that the depth transformer sees
    depth_rows: Tensor  # [M] int64, flat places
    depth_weights: Tensor  # [M] fp32, N / M of their sequence


@dataclass(frozen=True)
class Layout:
    """What decides how frames become columns and targets."""

    delays: Sequence[int]  # of text and every codebook
    num_own: int  # codebooks of one speaker
    padding_id: int
    end_id: int

    def num_columns(self, num_frames: int, longest: int) -> int:
        """Return the columns of a window of so many frames where `longest` is a full one."""
        return min(max(longest, num_frames), num_frames + max(self.delays))

    def counts(self, text: NDArray[np.int64], num_columns: int) -> dict[str, int]:
        """Return the true number of targets of each part, the user's among them."""
        num_frames = len(text)
        scored = text[: max(0, num_columns - self.delays[0])]
        padding = int((scored == self.padding_id).sum())
        end = int((scored == self.end_id).sum())
        counts = {"text": len(scored) - padding - end, "text_padding": padding, "text_end": end}
        counts |= dict.fromkeys(PARTS[3:], 0)
        for codebook in range(2 * self.num_own):
            seen = max(0, min(num_frames, num_columns - self.delays[1 + codebook]))
            counts[part_of(codebook, self.num_own)] += seen
        return counts


_LEAST_SCORED = 2  # columns of a window, where validation draws some: an error needs two
PARTS = ("text", "text_padding", "text_end", "c0", "acoustic", "user_c0", "user_acoustic")


def collate(
    examples: Examples,
    indices: Sequence[int],
    config: MoshiConfig,
    *,
    val_depth_fraction: float = 1.0,
    draw: Draw | None,
) -> MoshiBatch:
    """Make the micro-batch of `indices`.

    draw=None is validation: windows as they are, and the depth transformer sees the share
    `val_depth_fraction` of their columns, chosen by clip, place and side alone.
    """
    split = examples.split
    windows, keys = [], []
    for place, index in enumerate(indices):
        (piece,) = examples.of(index)
        key = f"{draw.key(place) if draw else 'val'}/{split.clip_id(piece.row)}"
        if draw is not None:
            piece = shifted(split, piece, config, f"{draw.seed}/{draw.epoch}")
        windows.append(window(split, piece))
        keys.append(f"{key}/{piece.start}/{piece.side}")
    num_codebooks = split.kinds["codes"].width // 2
    facts = split.facts
    layout = Layout(
        delays=delays_of(config.delays, num_codebooks),
        num_own=num_codebooks,
        padding_id=int(facts["text_padding_id"]),
        end_id=int(facts["end_of_text_padding_id"]),
    )
    longest = config.window_frames(facts, evaluate=draw is None)
    depth_fraction = config.depth_fraction if draw else val_depth_fraction
    batch = make_batch(windows, layout, longest)
    batch.audio_sec = sum(w.shape[1] for w in windows) * float(facts["frame_sec"])
    batch.is_estimate = draw is None and depth_fraction < 1
    draw_depth(batch, depth_fraction, keys, least=1 if draw else _LEAST_SCORED)
    return batch


def window(split: Split, piece: Piece) -> NDArray[np.int64]:
    """Return the rows of a window, [R, n]: text of Moshi's side, its codes, the user's codes."""
    codes = split.array("codes", piece.row)[piece.start : piece.stop].astype(np.int64)
    half = codes.shape[1] // 2
    left, right = codes[:, :half], codes[:, half:]
    own, user = (left, right) if piece.side == LEFT else (right, left)
    text = text_of(split, piece.row, piece.side, (piece.start, piece.stop))
    return np.concatenate([text[None], own.T, user.T])


def text_of(split: Split, row: int, side: int, frames: tuple[int, int]) -> NDArray[np.int64]:
    """Return the text stream of one speaker over the frames [start, stop) of a clip."""
    words = timed_tokens(split.array("words", row), split.array("text_tokens", row), side)
    return interleaver(split).window(words, *frames)[0]


def interleaver(split: Split) -> Interleaver:
    """Return the interleaver that a token file asks for."""
    facts = split.facts
    return Interleaver(
        rule=facts["interleave"],
        frame_sec=float(facts["frame_sec"]),
        padding_id=int(facts["text_padding_id"]),
        end_id=int(facts["end_of_text_padding_id"]),
    )


def make_batch(windows: Sequence[NDArray[np.int64]], layout: Layout, longest: int) -> MoshiBatch:
    """Make a batch of windows [R, n] with all their columns; `longest` is a full window."""
    columns = [layout.num_columns(one.shape[1], longest) for one in windows]
    width = max(columns)
    codes = np.full((len(windows), len(windows[0]), width), ZERO, dtype=np.int64)
    counts = []
    for sequence, (one, num_columns) in enumerate(zip(windows, columns, strict=True)):
        codes[sequence, :, : one.shape[1]] = one
        counts.append(layout.counts(one[0], num_columns))
    rows = np.concatenate([b * width + np.arange(n) for b, n in enumerate(columns)])
    sequence = np.repeat(np.arange(len(windows)), columns)
    return MoshiBatch(
        counts={part: torch.tensor([one[part] for one in counts]) for part in PARTS},
        audio_sec=0.0,
        num_positions=len(rows),
        num_padded=len(windows) * width,
        num_sequences=len(windows),
        codes=torch.from_numpy(codes),
        rows=torch.from_numpy(rows),
        sequence=torch.from_numpy(sequence),
        depth_places=torch.arange(len(rows)),
        depth_rows=torch.from_numpy(rows),
        depth_weights=torch.ones(len(rows)),
    )


def join(batches: Sequence[MoshiBatch]) -> JoinedBatch:
    """Return micro-batches as one, on their device, padded to the longest sequence of all."""
    sequences = [batch.num_sequences for batch in batches]
    widths = [batch.codes.shape[2] for batch in batches]
    width, columns = max(widths), [len(batch.rows) for batch in batches]
    codes = [F.pad(b.codes, (0, width - b.codes.shape[2]), value=ZERO) for b in batches]
    whole = MoshiBatch(
        **joined_totals(batches),
        num_padded=sum(sequences) * width,
        num_sequences=sum(sequences),
        codes=torch.cat(codes),
        rows=joined_places([b.rows for b in batches], widths, sequences),
        sequence=joined_rows([b.sequence for b in batches], starts_of(sequences)),
        depth_places=joined_rows([b.depth_places for b in batches], starts_of(columns)),
        depth_rows=joined_places([b.depth_rows for b in batches], widths, sequences),
        depth_weights=torch.cat([b.depth_weights for b in batches]),
    )
    drawn = [len(batch.depth_rows) for batch in batches]
    depth = dict.fromkeys(("depformer_in", "depformer", "linears"), drawn)
    return JoinedBatch(whole, {"transformer": sequences, "text_linear": columns, **depth})


def draw_depth(batch: MoshiBatch, fraction: float, keys: Sequence[str], least: int = 1) -> None:
    """Choose the columns that the depth transformer sees.

    Of the n columns of a sequence m = max(least, round(fraction * n)) are drawn and weighted n / m,
    so that the weighted sum is an unbiased estimate of that over all. Generators are keyed, so that
    neither micro-batch nor order matters.
    """
    if fraction >= 1:
        return
    places, weights = [], []
    sequences = batch.sequence.numpy()
    for sequence, key in enumerate(keys):
        own = np.flatnonzero(sequences == sequence)
        count = num_drawn(len(own), fraction, least)
        places.append(np.sort(keyed_generator(f"{key}/depth").choice(own, count, replace=False)))
        weights.append(np.full(count, len(own) / count, dtype=np.float32))
    batch.depth_places = torch.from_numpy(np.concatenate(places))
    batch.depth_rows = batch.rows.index_select(0, batch.depth_places)
    batch.depth_weights = torch.from_numpy(np.concatenate(weights))
