"""The schedule of a run: optimiser steps, learning rates, and the events between steps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.batches import BatchOptions, BatchPlan, Indices, Step
from csm_ft.data.examples import Examples
from csm_ft.errors import ConfigError
from csm_ft.evaluate.metrics import METRICS, cost_of, is_higher_better, is_judged
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.stopping import Improvement, follow
from csm_ft.schedule import Clock, Duration, learning_rate_factor
from csm_ft.training.extension import Extension, Schedule


class _AudioSeen:
    """Seconds of audio after each optimiser step, counted as far as they are asked for."""

    def __init__(self, steps: Iterator[Step], examples: Examples) -> None:
        self._steps, self._examples, self._after = steps, examples, [0.0]

    def after(self, step: int) -> float:
        """Return the seconds after so many steps."""
        while len(self._after) <= step:
            drawn = [i for micro in next(self._steps).micro_batches for i in micro]
            self._after.append(self._after[-1] + float(self._examples.audio_sec[drawn].sum()))
        return self._after[step]


Event = Literal["log", "val", "judge", "gen", "save"]
EVENTS: tuple[Event, ...] = ("log", "val", "judge", "gen", "save")


class RunPlan:
    """The schedule of one run: a pure function of its config, its examples and its extensions."""

    def __init__(
        self,
        config: TrainConfig,
        train: Examples,
        *,
        only_measure: bool,
        extensions: Sequence[Extension] = (),
        ranks: int = 1,
    ) -> None:
        self._config = config
        options = BatchOptions(
            config.batch_size,
            config.batch_tokens,
            config.grad_acc_steps,
            config.micro_batch_tokens,
            config.seed,
            ranks,
            config.batch_fill,
        )
        self._batches = BatchPlan(train.costs, options, train.weights)
        self.total_steps = 0
        if not only_measure:
            self.total_steps = self._batches.total_steps(
                n_epochs=config.n_epochs, max_steps=config.max_steps
            )
        self._decay = "constant" if config.optimizer == "schedulefree" else config.lr_decay
        self._train = train
        steps = self._batches.steps(start=0, stop=self.total_steps)
        self._audio = _AudioSeen(steps, train)
        self._clock = self._clock_of(self.total_steps)
        self._every = {name: Duration.parse(getattr(config, f"{name}_every")) for name in EVENTS}
        self._patience = self._clock.examples(Duration.parse(config.patience))
        self._best_from = self._first_step(Duration.parse(config.best_from))
        earlier = [
            self._batches.total_steps(n_epochs=one.n_epochs, max_steps=one.max_steps)
            for one in extensions
        ]
        self.ends = [*earlier, self.total_steps]  # steps of the run as it was first, and at last
        self._warmup_steps = [self._fit_warmup(end) for end in self.ends]
        self._after: list[Schedule] = [one.schedule for one in extensions]

    def steps(self, state: TrainState) -> Iterator[Step]:
        """Yield the remaining optimiser steps."""
        stop = state.step if self.is_last(state) else self.total_steps
        return self._batches.steps(start=state.step, stop=stop)

    def first_epoch(self) -> list[list[Indices]]:
        """Return the micro-batches of each step of the first epoch, those of all ranks."""
        stop = len(self._batches.epoch(0))
        return [step.micro_batches for step in self._batches.steps(start=0, stop=stop)]

    def num_positions(self) -> int:
        """Return how many positions all steps train, about: those of a mean step, times steps."""
        steps_per_epoch = len(self._batches.epoch(0))
        return round(float(self._train.costs.sum()) * self.total_steps / steps_per_epoch)

    def is_last(self, state: TrainState) -> bool:
        """Tell whether no step follows."""
        return state.step == self.total_steps or state.stopped or self.is_out_of_patience(state)

    def is_out_of_patience(self, state: TrainState) -> bool:
        """Tell whether the latest validation was the last that patience waits for.

        A function of state and options, so that a resumed run ends, or goes on with more patience.
        """
        last = state.improvement
        return bool(self._patience) and last is not None and last.waited_examples >= self._patience

    def follow(self, state: TrainState, metrics: Mapping[str, float]) -> Improvement | None:
        """Return the last improvement after a validation.

        Those that cannot become the best do not count: before best_from, or without the number.
        """
        if not self.counts_as_best(state, metrics):
            return state.improvement
        by, cost = self._config.best_by, cost_of(self._config.best_by, metrics)
        min_delta = self._config.min_delta
        return follow(state.improvement, by, cost, examples=state.examples, min_delta=min_delta)

    def is_best(self, state: TrainState, metrics: Mapping[str, float]) -> bool:
        """Tell whether a validation is the best so far by the metric of best_by."""
        if not self.counts_as_best(state, metrics):
            return False
        by, best = self._config.best_by, state.best
        return best is None or by not in best or cost_of(by, metrics) < cost_of(by, best)

    def early_stop(self, state: TrainState) -> str:
        """Return why the run ended before its last step, for people; "" if it did not."""
        last = state.improvement
        if last is None or not self.is_out_of_patience(state) or state.step == self.total_steps:
            return ""
        delta = f" by more than {self._config.min_delta:g}" if self._config.min_delta else ""
        moved = f"fallen{delta} below {last.value:.4f}"
        if is_higher_better(last.metric):
            moved = f"risen{delta} above {-last.value:.4f}"
        return (
            f"out of patience at step {state.step} of {self.total_steps}: {last.metric} has not"
            f" {moved} for {last.waited_examples} examples (patience {self._config.patience} ="
            f" {self._patience:.0f} examples)"
        )

    def is_due(self, event: Event, state: TrainState, examples_before: int) -> bool:
        """Tell whether the last step reached a multiple of the event's interval, or the end."""
        every = self._every[event]
        if every.unit == "audio" and state.step:
            before, now = self._audio.after(state.step - 1), self._audio.after(state.step)
            return self.is_last(state) or now // every.amount > before // every.amount
        return self.is_last(state) or self._clock.is_due(
            every,
            step=state.step,
            examples=state.examples,
            examples_before=examples_before,
        )

    def seen(self, state: TrainState) -> dict[str, float]:
        """Return how far a run is; in audio, too, where its validations are timed by that."""
        audio = {"audio_sec": self._audio.after(state.step)} if self._is_timed_by_audio else {}
        return {"examples": state.examples, "epoch": state.epoch, **audio}

    def distance(self, state: TrainState) -> int:
        """Return what trials are compared at: examples seen, or whole seconds of audio."""
        return round(self._audio.after(state.step)) if self._is_timed_by_audio else state.examples

    @property
    def _is_timed_by_audio(self) -> bool:
        return self._every["val"].unit == "audio"

    def _first_step(self, duration: Duration) -> int:
        """Return the step at whose end so much is seen."""
        if duration.unit != "audio":
            return self._clock.steps(duration)
        steps = range(self.total_steps)
        return next((n for n in steps if self._audio.after(n) >= duration.amount), self.total_steps)

    def counts_as_best(self, state: TrainState, metrics: Mapping[str, float]) -> bool:
        """Tell whether a validation now may become the best; one before step 1 never does.

        Nor does one without the number of best_by, if that is a judged one. ConfigError where no
        validation measures it.
        """
        by = self._config.best_by
        if by not in metrics and by not in METRICS:
            raise ConfigError(
                f"best_by {by}: validation measures {', '.join(metrics)}; choose among them"
            )
        if by not in metrics or (self._config.judge_best and not is_judged(metrics)):
            return False
        return state.step > 0 and state.step >= self._best_from

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of optimiser step `step` (0-based)."""
        return self._config.learning_rate * self._factor(step, len(self._after))

    def _factor(self, step: int, stage: int) -> float:
        """Return the share of the peak at `step` of the run as it was after `stage` extensions."""
        if stage and step < self.ends[stage - 1]:
            return self._factor(step, stage - 1)
        if stage and self._after[stage - 1] == "constant":
            return self._factor(self.ends[stage - 1] - 1, stage - 1)
        return learning_rate_factor(
            step,
            total_steps=self.ends[stage],
            warmup_steps=self._warmup_steps[stage],
            decay=self._decay,
            min_ratio=self._config.min_lr_ratio,
        )

    def _clock_of(self, total_steps: int) -> Clock:
        examples = self._batches.examples_after(total_steps)
        number = len(self._train)
        return Clock(total_steps, examples, number, self._train.epoch_sec / number or 1.0)

    def _fit_warmup(self, total_steps: int) -> int:
        """Return the warm-up steps, limited to half the run."""
        clock = self._clock_of(total_steps)
        wanted = clock.steps(Duration.parse(self._config.warmup_steps))
        longest = total_steps // 2
        if wanted > longest > 0:
            console.print(
                f"[yellow]warmup_steps {wanted} does not fit a run of {total_steps} steps:"
                f" warming up for {longest}[/]"
            )
        return min(wanted, longest)
