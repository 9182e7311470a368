"""What orchestrator and workers tell each other.

One JSON object a line over a socket, each tagged with its trial and attempt.
"""

import socket
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

BASELINE = -1  # in place of a trial's number: the untrained model


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTrial(_Message):
    """To a worker: run this config to its end."""

    type: Literal["run"] = "run"
    trial: int
    attempt: int
    config: dict[str, Any]


class Answer(_Message):
    """To a worker: whether the trial goes on after its validation at `examples`."""

    type: Literal["answer"] = "answer"
    trial: int
    attempt: int
    examples: int
    go_on: bool


class Pause(_Message):
    """To a worker: save and come back."""

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


class Validated(_Message):
    """From a worker: a validation, in nats per frame; it waits for the Answer."""

    type: Literal["validated"] = "validated"
    trial: int
    attempt: int
    examples: int
    val_loss: FiniteFloat


class Done(_Message):
    """From a worker: the run returned."""

    type: Literal["done"] = "done"
    trial: int
    attempt: int
    status: Literal["completed", "stopped", "interrupted"]
    best: dict[str, Any] | None  # val_loss, step, examples, epoch
    final_val_loss: float | None


class Failed(_Message):
    """From a worker: the run raised."""

    type: Literal["failed"] = "failed"
    trial: int
    attempt: int
    kind: Literal["diverged", "infeasible", "error"]
    error: str  # one line
    where: str  # exception class and the line of code: two failures with the same are the same bug
    trace: str


ToWorker = Annotated[RunTrial | Answer | Pause, Field(discriminator="type")]
FromWorker = Annotated[Ready | Progress | Validated | Done | Failed, Field(discriminator="type")]
TO_WORKER: TypeAdapter[RunTrial | Answer | Pause] = TypeAdapter(ToWorker)
FROM_WORKER: TypeAdapter[Ready | Progress | Validated | Done | Failed] = TypeAdapter(FromWorker)


def send(link: socket.socket, message: BaseModel) -> None:
    """Write one message; OSError when the other side is gone."""
    link.sendall(message.model_dump_json().encode() + b"\n")
