"""Padding and order of batches (exact), and the cost of reading clips."""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import SIZES, Kind, lengths, split_of
from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, exact, median
from csm_ft.data.batches import BatchOptions, BatchPlan
from csm_ft.data.split import StoreInfo
from csm_ft.data.token_file import open_store, write_store
from csm_ft.families.csm.data import depth_draw

NUM_CLIPS = {"small": 12_500, "tiny": 400}
NUM_STORED = {"small": 100_000, "tiny": 400}
BUDGET_TOKENS = 8192
KINDS: tuple[Kind, ...] = ("lj", "conversation")
Batches = list[list[int]]


def measure(config: BenchmarkConfig) -> Found:
    """Compute the padding of both kinds of clips, then time a store."""
    count = NUM_CLIPS[config.size]
    costs = {kind: costs_of(kind, count) for kind in KINDS}
    padded = {
        f"data.{kind}.padding_bs{size}_percent": padding(plan(costs[kind], size), costs[kind])
        for kind, size in itertools.product(KINDS, (8, 16, 32))
    }
    turns = costs["conversation"]
    by_size, by_budget = plan(turns, 8), plan(turns, 8, batch_tokens=BUDGET_TOKENS)
    in_order = np.argsort(turns, kind="stable").tolist()
    same_always = [in_order[i : i + 8] for i in range(0, count, 8)]
    computed = padded | {
        "data.conversation.padding_budget_percent": padding(by_budget, turns),
        "data.conversation.sorted_bs8_percent": padding(same_always, turns),
        "data.conversation.tokens_cv_bs8": variation(by_size, turns),
        "data.conversation.tokens_cv_budget": variation(by_budget, turns),
        "data.batches_repeated_percent": repeated(by_size, plan(turns, 8, epoch=1)),
        "data.depth_frames_ratio": depth_frames_ratio(lengths("lj", count)[0]),
    }
    return {**{name: exact(value) for name, value in computed.items()}, **_time_store(config)}


def costs_of(kind: Kind, count: int) -> NDArray[np.int64]:
    """Return the positions of random clips: text, frames and the EOS frame."""
    frames, text = lengths(kind, count)
    return frames + text + 1


def plan(
    costs: NDArray[np.int64], batch_size: int, *, batch_tokens: int = 0, epoch: int = 0
) -> Batches:
    """Return the batches of an epoch, as training makes them."""
    options = BatchOptions(batch_size, batch_tokens, 1, 1 << 30, seed=0)
    return list(itertools.chain.from_iterable(BatchPlan(costs, options).epoch(epoch)))


def padding(batches: Batches, costs: NDArray[np.int64]) -> float:
    """Return the padding as a percentage of all positions."""
    padded = sum(len(batch) * int(costs[batch].max()) for batch in batches)
    return 100 * (1 - int(costs.sum()) / padded)


def variation(batches: Batches, costs: NDArray[np.int64]) -> float:
    """Return the coefficient of variation of the tokens per batch."""
    tokens = np.array([costs[batch].sum() for batch in batches])
    return float(tokens.std() / tokens.mean())


def repeated(batches: Batches, others: Batches) -> float:
    """Return the percentage of batches that are among the others, in whatever order."""
    known = {frozenset(batch) for batch in others}
    return 100 * sum(frozenset(batch) in known for batch in batches) / len(batches)


def depth_frames_ratio(frames: NDArray[np.int64]) -> float:
    """Return the frames that train the depth decoder, as a multiple of 1/16 of all frames."""
    drawn = [len(depth_draw(n, 1 / 16, f"0/{i}")[0]) for i, n in enumerate(frames.tolist())]
    return sum(drawn) / (int((frames + 1).sum()) / 16)


def _time_store(config: BenchmarkConfig) -> Found:
    """Open a store in a way that keeps it on disk, and read clips of it at random."""
    split = split_of("lj", NUM_STORED[config.size], SIZES["tiny"])
    info = StoreInfo("csm", split.kinds, 24_000, 0.08, "", "", {})
    rows = np.random.default_rng(0).integers(0, len(split), 2000).tolist()
    open_ms, read_us = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.hdf5")
        write_store(path, info, {"train": split, "val": split_of("lj", 1, SIZES["tiny"])})
        for _ in range(config.rounds):
            began = time.process_time()
            train = open_store(path, in_memory=False).splits["train"]
            open_ms.append(1000 * (time.process_time() - began))
            began = time.process_time()
            for row in rows:
                train.array("codes", row).sum()
            read_us.append(1e6 * (time.process_time() - began) / len(rows))
    return {"data.open_100k_ms": median(open_ms), "data.read_clip_us": median(read_us)}
