"""The schedule of a run: optimiser steps, learning rates, and the events between steps."""

from collections.abc import Iterator
from typing import Literal

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.batches import BatchOptions, BatchPlan, Step
from csm_ft.data.examples import Examples
from csm_ft.runs.checkpoint import TrainState
from csm_ft.schedule import Clock, Duration, learning_rate_factor

Event = Literal["log", "val", "gen", "save"]
EVENTS: tuple[Event, ...] = ("log", "val", "gen", "save")


class RunPlan:
    """The schedule of one run, a pure function of its config and its training examples."""

    def __init__(self, config: TrainConfig, train: Examples, *, only_measure: bool) -> None:
        options = {name: getattr(config, name) for name in BatchOptions.__dataclass_fields__}
        self._config = config
        self._batches = BatchPlan(train.costs, BatchOptions(**options))
        self.total_steps = 0
        if not only_measure:
            self.total_steps = self._batches.total_steps(
                n_epochs=config.n_epochs, max_steps=config.max_steps
            )
        total_examples = self._batches.examples_after(self.total_steps)
        self._clock = Clock(self.total_steps, total_examples, len(train))
        self._every = {name: Duration.parse(getattr(config, f"{name}_every")) for name in EVENTS}
        self._best_from = self._clock.steps(Duration.parse(config.best_from))
        self._warmup_steps = self._fit_warmup()

    def steps(self, state: TrainState) -> Iterator[Step]:
        """Yield the remaining optimiser steps."""
        stop = 0 if state.stopped else self.total_steps
        return self._batches.steps(start=state.step, stop=stop)

    def is_last(self, state: TrainState) -> bool:
        """Tell whether no step follows."""
        return state.step == self.total_steps or state.stopped

    def is_due(self, event: Event, state: TrainState, examples_before: int) -> bool:
        """Tell whether the last step reached a multiple of the event's interval, or the end."""
        return self.is_last(state) or self._clock.is_due(
            self._every[event],
            step=state.step,
            examples=state.examples,
            examples_before=examples_before,
        )

    def counts_as_best(self, state: TrainState) -> bool:
        """Tell whether a validation now may become the best; one before step 1 never does."""
        return state.step > 0 and state.step >= self._best_from

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of optimiser step `step` (0-based)."""
        config = self._config
        return config.learning_rate * learning_rate_factor(
            step,
            total_steps=self.total_steps,
            warmup_steps=self._warmup_steps,
            decay=config.lr_decay,
            min_ratio=config.min_lr_ratio,
        )

    def _fit_warmup(self) -> int:
        """Return the warm-up steps, limited to half the run."""
        wanted = self._clock.steps(Duration.parse(self._config.warmup_steps))
        longest = self.total_steps // 2
        if wanted > longest > 0:
            console.print(
                f"[yellow]warmup_steps {wanted} does not fit a run of {self.total_steps} steps:"
                f" warming up for {longest}[/]"
            )
        return min(wanted, longest)
