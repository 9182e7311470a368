"""Dialogues cut into windows. Imports no torch.

A dialogue of n frames and windows of w gives n // w full windows and what is left. In training the
full ones are moved together, by 0 to the frames that are left, drawn anew in each epoch; so the
cuts move, and no length changes. In validation they stand at multiples of w.
"""

import hashlib

import numpy as np

from csm_ft.data.examples import Examples, Piece, make_examples
from csm_ft.data.split import Split
from csm_ft.families.moshi.config import MoshiConfig

LEFT, RIGHT = 0, 1
SIDES = {"left": (LEFT,), "right": (RIGHT,), "both": (LEFT, RIGHT)}


def arrange(split: Split, config: MoshiConfig, *, evaluate: bool) -> Examples:
    """Cut a split into windows; for validation, as no searched option can change."""
    window = config.window_frames(split.facts, evaluate=evaluate)
    shortest = min(window, config.shortest_frames(split.facts))  # full windows stay
    sides = SIDES[config.moshi_channel]
    examples: list[list[Piece]] = []
    for row, num_frames in enumerate(split.lengths("codes").tolist()):
        stops = [*range(window, num_frames, window), num_frames]
        for stop in stops:
            start = (stop - 1) // window * window
            if stop - start < shortest and len(stops) > 1 and not evaluate:
                continue
            examples += [[Piece(row, start, stop, side=side)] for side in sides]
    costs = [piece.stop - piece.start + 1 for (piece,) in examples]
    return make_examples(split, examples, costs)


def shifted(split: Split, piece: Piece, config: MoshiConfig, key: str) -> Piece:
    """Return the place of a training window in the epoch that `key` names, of the same length."""
    window = config.window_frames(split.facts, evaluate=False)
    num_frames = int(split.lengths("codes")[piece.row])
    left = num_frames % window
    if num_frames < window or not left:
        return piece
    digest = hashlib.blake2b(f"{key}/{split.clip_id(piece.row)}".encode(), digest_size=8).digest()
    offset = int(np.random.default_rng(list(digest)).integers(left + 1))
    if piece.stop - piece.start == window:
        return piece._replace(start=piece.start + offset, stop=piece.stop + offset)
    is_first = 2 * offset > left  # more is left before the full windows than behind them
    start = 0 if is_first else num_frames - left
    return piece._replace(start=start, stop=start + left)
