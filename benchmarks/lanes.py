"""`--packed_lora`: steps of runs with adapters, one run after the other and side by side."""

import threading
from collections.abc import Callable

import torch

from benchmarks.clips import split_of
from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, ratio
from benchmarks.timing import interleave
from benchmarks.trainers import FAMILY, with_drawn
from csm_ft.data.batches import Step
from csm_ft.families.base import Draw
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import CsmBatch
from csm_ft.families.csm.model import CsmModel, random_model
from csm_ft.families.csm.size import CsmSize, TransformerSize
from csm_ft.ranks import ALONE, Ranks
from csm_ft.training.lanes import Lane, Lanes
from csm_ft.training.optim import build_optimizer, choose_parameters
from csm_ft.training.step import optimizer_step

NUM_RUNS = 8
NUM_STEPS = {"small": 8, "tiny": 2}
# As the base of the demo: with it an operation costs what it does, and not what it computes.
SIZE = CsmSize(
    TransformerSize(layers=4, heads=4, kv_heads=2, dim=192, ffn_dim=512),
    TransformerSize(layers=2, heads=4, kv_heads=2, dim=128, ffn_dim=256),
    text_vocab_size=512,
    audio_vocab_size=259,
    num_codebooks=8,
)
OPTIONS = CsmConfig(device="cpu", dtype="fp32", threads=1, method="lora", lora_rank=16)


class Run:
    """A model with adapters of its own, its optimiser, and a batch of one clip for each step."""

    def __init__(self, number: int, num_steps: int, ranks: Ranks) -> None:
        self.ranks = ranks
        self.model: CsmModel = ranks.build(self._build)
        self.optimizer = build_optimizer(self.model, FAMILY, OPTIONS)
        self.batches = [self._batch(number * num_steps + step) for step in range(num_steps)]
        self.terms = FAMILY.loss_terms(OPTIONS)

    def _build(self, *, is_empty: bool) -> CsmModel:
        model = random_model(SIZE, seed=0)
        choose_parameters(model, FAMILY, OPTIONS)
        return model

    def _batch(self, seed: int) -> CsmBatch:
        examples = FAMILY.arrange(split_of("lj", 1, SIZE, seed), OPTIONS, evaluate=False)
        return with_drawn(FAMILY.collate(examples, [0], OPTIONS, draw=Draw(0, 0)))

    def train(self) -> None:
        """Take all steps."""
        for number, batch in enumerate(self.batches, 1):
            step = Step(number, 0, 1, [], [])
            optimizer_step(
                self.model, self.optimizer, step, [batch], OPTIONS, self.terms, self.ranks
            )
        self.ranks.watch(_ignore)("validation")  # no other waits for it


def measure(config: BenchmarkConfig) -> Found:
    """Take the same steps in one run after the other, and side by side."""
    num_steps = NUM_STEPS[config.size]
    alone = [Run(number, num_steps, ALONE) for number in range(NUM_RUNS)]
    shared = Lanes()
    lanes = [Lane(shared, "cpu", OPTIONS.dtype) for _ in range(NUM_RUNS)]
    packed = [Run(number, num_steps, lane) for number, lane in enumerate(lanes)]
    variants: dict[str, Callable[[int], object]] = {
        "alone": lambda _: [run.train() for run in alone],
        "packed": lambda _: _side_by_side(packed),
    }
    times = interleave(variants, rounds=config.rounds, warm_up=False)
    for lane in lanes:
        lane.close()
    return {"lanes.steps_ratio": ratio(times["alone"], times["packed"])}


def _side_by_side(runs: list[Run]) -> None:
    """Train in threads, with one thread of torch's for each."""

    def train(run: Run) -> None:
        torch.set_num_threads(1)
        run.train()

    threads = [threading.Thread(target=train, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ignore(doing: object = None) -> None:
    """Nobody watches."""
