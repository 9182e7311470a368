"""Training steps beside those of the peers, validation, and the making of batches."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.clips import SIZES, Kind, split_of
from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, Measured, median, ratio, total_ratio
from benchmarks.peers import missing
from benchmarks.timing import Times, interleave
from benchmarks.trainers import FAMILY, Ours, PublicTrainer, Trainer, Transformers, with_drawn
from csm_ft.data.batches import BatchOptions, BatchPlan
from csm_ft.data.examples import Examples
from csm_ft.errors import CheckError
from csm_ft.evaluate.validation import validate
from csm_ft.families.base import Draw
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import CsmBatch
from csm_ft.families.csm.model import CsmModel, random_model

NUM_CLIPS = 512  # of which batches are made
BATCH_SIZE = 8
LOADER_TIMES = 50
MAX_DIFFERENCE = 1e-5  # of losses, beyond which nothing is timed
# At this rate no step changes a weight, so that all trainers keep the same ones.
OPTIONS = CsmConfig(device="cpu", dtype="fp32", threads=1, learning_rate=1e-12)


def measure(config: BenchmarkConfig) -> Found:
    """Measure all of it on one model."""
    model = random_model(SIZES[config.size], seed=0)
    ours = Ours(model, OPTIONS)
    theirs = Transformers(model, OPTIONS)
    trainers: dict[str, Trainer] = {"transformers": theirs, "ours": ours}
    if not missing():
        trainers["peer"] = PublicTrainer(model, OPTIONS)
    sentences, turns = (_examples(kind, model) for kind in ("lj", "conversation"))
    _check_losses(trainers, with_drawn(_collate(sentences, [0, 1])))
    validation = {"validation": _validation(ours.model, sentences, config.rounds)}
    times = _against_peers(trainers, sentences, config.rounds, validation)
    batches = _batches(sentences, config.rounds)
    speeds = [b.num_positions / sec for b, sec in zip(batches, times["ours"], strict=True)]
    return {
        **_ratios("lj", times),
        "step.lj.tokens_per_cpu_sec": median(speeds),
        "step.loader_percent": _loader(sentences, batches[0], times["ours"]),
        "step.validation_ratio": ratio(times["validation"], times["ours"]),
        **_ratios("conversation", _against_peers(trainers, turns, config.rounds, {})),
        "step.lj.transformers_all_ratio": _all_frames(theirs, batches, times["ours"]),
    }


def _examples(kind: Kind, model: CsmModel) -> Examples:
    return FAMILY.arrange(split_of(kind, NUM_CLIPS, model.size), OPTIONS, evaluate=False)


def _planned(examples: Examples, count: int) -> list[list[int]]:
    """Return the examples of batches as training makes them, from short clips to long ones."""
    options = BatchOptions(BATCH_SIZE, 0, 1, 1 << 30, seed=0)
    planned = [batches[0] for batches in BatchPlan(examples.costs, options).epoch(0)]
    planned.sort(key=lambda batch: int(examples.costs[batch].sum()))
    return [planned[int(len(planned) * (i + 0.5) / count)] for i in range(count)]


def _batches(examples: Examples, count: int) -> list[CsmBatch]:
    return [with_drawn(_collate(examples, batch)) for batch in _planned(examples, count)]


def _collate(examples: Examples, indices: Sequence[int]) -> CsmBatch:
    return FAMILY.collate(examples, indices, OPTIONS, draw=Draw(0, 0))


def _check_losses(trainers: Mapping[str, Trainer], batch: CsmBatch) -> None:
    """Compare the losses, and take the first step, which makes the optimisers' moments."""
    prepared = {name: one.prepare(batch) for name, one in trainers.items()}
    losses = {name: one.loss(prepared[name]).item() for name, one in trainers.items()}
    if max(losses.values()) - min(losses.values()) > MAX_DIFFERENCE:
        raise CheckError(f"the losses differ, so that times do not compare: {losses}")
    for name, one in trainers.items():
        one.step(prepared[name])


def _against_peers(
    trainers: Mapping[str, Trainer],
    examples: Examples,
    rounds: int,
    others: Mapping[str, Callable[[int], object]],
) -> Times:
    """Take steps on the same batches in turns."""
    batches = _batches(examples, rounds)
    prepared = {name: list(map(one.prepare, batches)) for name, one in trainers.items()}
    variants = {
        name: lambda number, one=one, own=prepared[name]: one.step(own[number])
        for name, one in trainers.items()
    }
    return interleave({**variants, **others}, rounds=rounds, warm_up=False)


def _ratios(kind: Kind, times: Times) -> Found:
    name = f"step.{kind}.peer_ratio"
    against_peer = total_ratio(times["peer"], times["ours"]) if "peer" in times else missing()
    theirs = total_ratio(times["transformers"], times["ours"])
    return {f"step.{kind}.transformers_ratio": theirs, name: against_peer}


def _all_frames(
    theirs: Transformers, batches: Sequence[CsmBatch], ours_sec: Sequence[float]
) -> Measured:
    """Compare with transformers as it is documented: each frame trains the depth decoder.

    One step, which takes longer than all others, on the batch of middle length.
    """
    middle = len(batches) // 2
    labelled = theirs.prepare(batches[middle], all_frames=True)
    times = interleave({"all frames": lambda _: theirs.step(labelled)}, rounds=1, warm_up=False)
    return ratio(times["all frames"], [ours_sec[middle]])


def _validation(model: CsmModel, examples: Examples, rounds: int) -> Callable[[int], object]:
    """Return the validation on the clips of a round's batch."""
    batches = [examples.take(np.array(batch)) for batch in _planned(examples, rounds)]
    options = OPTIONS.replace(val_depth_fraction=0.1)  # what a set of more clips has by default
    return lambda number: validate(model, FAMILY, batches[number], options)


def _loader(examples: Examples, batch: CsmBatch, step_sec: Sequence[float]) -> Measured:
    """Return the share of making a batch, mean over many, of the shortest step."""
    indices = range(batch.num_sequences)
    times = interleave(
        {"loader": lambda _: [_collate(examples, indices) for _ in range(LOADER_TIMES)]}, rounds=3
    )
    return median([100 * sec / LOADER_TIMES / min(step_sec) for sec in times["loader"]])
