"""What orchestrator and workers send each other, each tagged with its trial and attempt."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

BASELINE = -1  # in place of a trial's number: the untrained model

Metrics = dict[str, FiniteFloat | None]  # of one validation; None = not finite


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTrial(_Message):
    """To a worker: run this config to its end."""

    type: Literal["run"] = "run"
    trial: int
    attempt: int
    config: dict[str, Any]
    port: int = 0  # where the ranks of the run meet


class Answer(_Message):
    """To a worker: whether the trial continues after its validation at `examples`."""

    type: Literal["answer"] = "answer"
    trial: int
    attempt: int
    examples: int
    may_continue: bool


class Pause(_Message):
    """To a worker: save and return."""

    type: Literal["pause"] = "pause"


class Ready(_Message):
    """From a worker: the trainer is imported."""

    type: Literal["ready"] = "ready"


class Progress(_Message):
    """From a worker: so many optimiser steps and examples are done."""

    type: Literal["progress"] = "progress"
    trial: int
    attempt: int
    step: int
    examples: int


Doing = Literal["loading", "training", "validation", "judging", "samples", "saving"]


class Alive(_Message):
    """From a worker: its run lives, and what it is doing."""

    type: Literal["alive"] = "alive"
    trial: int
    attempt: int
    doing: Doing


class Validated(_Message):
    """From a worker: all metrics of a validation, the objective finite; it waits for the Answer."""

    type: Literal["validated"] = "validated"
    trial: int
    attempt: int
    examples: int
    metrics: Metrics


class Done(_Message):
    """From a worker: the run returned."""

    type: Literal["done"] = "done"
    trial: int
    attempt: int
    status: Literal["completed", "stopped", "interrupted"]
    best: dict[str, Any] | None  # val_loss and further metrics, step, examples, epoch
    metrics: Metrics  # of the last validation
    reason: str = ""  # why it ended before its last step


# outside: a fault of the data or the machine, which other trials would meet, too.
Kind = Literal["diverged", "infeasible", "out_of_memory", "outside", "error"]


class Failed(_Message):
    """From a worker: the run raised an exception."""

    type: Literal["failed"] = "failed"
    trial: int
    attempt: int
    kind: Kind
    positions: int = 0  # padded, of the micro-batch that did not fit; 0: a smaller one is no help
    name: str  # of the exception's class
    message: str
    where: str  # exception class and the line of code: two failures with the same are the same bug
    trace: str
    is_leaving: bool = False  # the worker can do nothing more

    @property
    def reason(self) -> str:
        """The failure in one line."""
        return f"{self.name}: {self.message}"


ToWorker = RunTrial | Answer | Pause
FromWorker = Ready | Progress | Alive | Validated | Done | Failed
TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(Annotated[ToWorker, Field(discriminator="type")])
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(
    Annotated[FromWorker, Field(discriminator="type")]
)


def as_metrics(metrics: Mapping[str, float]) -> Metrics:
    """Return metrics as they travel: JSON has no number for one that is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
