"""Train a speech language model on a token file: `python train.py --data tokens.hdf5`.

See --help for every option.

THE loop is `_Loop.run` below: once in a while evaluate, speak, save; then one optimiser step. A
sweep's workers run the same `run`.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from csm_ft.cli import parse_args, read_values
from csm_ft.config import ConfigError, TrainConfig, load_env_files
from csm_ft.console import console
from csm_ft.data.batches import BatchOptions, BatchPlan, Step, prefetch
from csm_ft.data.examples import Examples
from csm_ft.data.token_file import Store, StoreError, open_tokens
from csm_ft.evaluate.validation import evaluate
from csm_ft.families import arrange, config_class, open_family
from csm_ft.families.base import Batch, Draw, Family, SpeechModel
from csm_ft.families.lora import seed_dropout
from csm_ft.runs.checkpoint import TrainState, load_checkpoint, save_best, save_checkpoint
from csm_ft.runs.folder import open_run, reproducible, resolve
from csm_ft.runs.metrics import Tracker
from csm_ft.runs.window import add, training_row
from csm_ft.schedule import Clock, Duration, learning_rate_factor
from csm_ft.training.optim import build_optimizer, choose_parameters, set_learning_rate
from csm_ft.training.samples import Voice, open_voice

DESCRIPTION = "Fine-tune a conversational speech model on a token file written by pretokenize.py."


class Diverged(RuntimeError):
    """The loss or the gradient is not finite; raised before the weights are touched."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"step {step}: the {what} is not finite; the weights are those of step {step - 1}."
            " Lower learning_rate or max_grad_norm"
        )
        self.step = step


class Reporter(Protocol):
    """Who watches a run from outside: a sweep."""

    def progress(self, step: int, examples: int) -> None:
        """An optimiser step is done."""
        ...

    def validated(self, examples: int, metrics: Mapping[str, float]) -> bool:
        """A validation is done; return False to end the run here."""
        ...


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    status: Literal["completed", "stopped", "interrupted"]
    step: int
    examples: int
    best: dict[str, Any] | None  # val_loss, step, examples, epoch
    final_val_loss: float | None


def run(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    should_pause: Callable[[], bool] = lambda: False,
    only_measure: bool = False,
) -> RunResult:
    """Train as `config` says and return how it ended.

    Called again with the same config it goes on from the last checkpoint.

    Raises ConfigError (a mistake in the options), StoreError (a bad token file), Diverged.
    """
    store = open_tokens(Path(config.data), in_memory=not config.partial_data_loading)
    family = open_family(config.family)
    config = resolve(config, store, family)
    train, val = (
        arrange(store.splits["train"], config),
        arrange(store.splits["val"], config, evaluate=True),
    )
    with reproducible(config), open_run(config, store) as (folder, checkpoint):
        model = family.build_model(config, store)
        choose_parameters(model, family, config)
        model.to(config.device)
        optimizer = build_optimizer(model, family, config)
        state = load_checkpoint(checkpoint, model, optimizer) if checkpoint else TrainState()
        plan = _plan(config, train)
        total_steps = (
            0
            if only_measure
            else plan.total_steps(n_epochs=config.n_epochs, max_steps=config.max_steps)
        )
        voice = (
            open_voice(config, store, folder / "samples")
            if Duration.parse(config.gen_every).amount > 0
            else None
        )
        with Tracker(folder, config, keep_bytes=state.metrics_bytes) as tracker:
            loop = _Loop(
                config,
                store,
                train,
                val,
                family,
                model,
                optimizer,
                plan,
                folder,
                tracker,
                reporter,
                should_pause,
            )
            return loop.run(state, total_steps, is_resumed=checkpoint is not None, voice=voice)


def run_baseline(config: TrainConfig) -> RunResult:
    """Validate and speak with the untrained model; no step is taken."""
    return run(config, only_measure=True)


@dataclass
class _Loop:
    config: TrainConfig
    store: Store
    train: Examples
    val: Examples
    family: Family
    model: SpeechModel
    optimizer: torch.optim.Optimizer
    plan: BatchPlan
    folder: Path
    tracker: Tracker
    reporter: Reporter | None
    should_pause: Callable[[], bool]

    def run(
        self, state: TrainState, total_steps: int, *, is_resumed: bool, voice: Voice | None
    ) -> RunResult:
        """Read from top to bottom.

        `total_steps` optimiser steps, and one more pass so that the end is judged and saved, too.
        """
        config, root = self.config, self.folder / "checkpoints"
        clock = Clock(total_steps, self.plan.examples_after(total_steps), len(self.train))
        every = {
            name: Duration.parse(getattr(config, f"{name}_every"))
            for name in ("log", "val", "gen", "save")
        }
        best_from = clock.steps(Duration.parse(config.best_from))
        warmup_steps = self._warmup_steps(clock)
        steps = prefetch(
            self._collate,
            self.plan.steps(start=state.step, stop=0 if state.stopped else total_steps),
        )
        examples_before, status = state.examples, "completed"
        self._announce(state, total_steps, is_resumed)
        while True:
            is_last = state.step == total_steps or state.stopped
            is_due = {
                name: (
                    is_last
                    or clock.is_due(
                        duration,
                        step=state.step,
                        examples=state.examples,
                        examples_before=examples_before,
                    )
                )
                for name, duration in every.items()
            }
            begins = state.step == 0 and (config.measure_base or is_last)
            if not is_resumed:
                if is_due["val"] or begins:
                    self._validate(state, is_candidate=state.step > 0 and state.step >= best_from)
                    is_last = is_last or state.stopped
                if voice is not None and (is_due["gen"] or begins or is_last):
                    with self._autocast():
                        voice.speak(
                            self.model,
                            self.folder / "samples",
                            step=state.step,
                            examples=state.examples,
                            tracker=self.tracker,
                        )
                paused = self.should_pause()
                if total_steps and (is_due["save"] or is_last or paused):
                    self._save(root, state)
                if paused and not is_last:
                    status = "interrupted"
                    break
            if is_last:
                status = "stopped" if state.stopped else "completed"
                break
            is_resumed, examples_before = False, state.examples
            clock_sec = time.perf_counter()
            step, batches = next(steps)
            data_sec = time.perf_counter() - clock_sec
            factor = learning_rate_factor(
                state.step,
                total_steps=total_steps,
                warmup_steps=warmup_steps,
                decay=config.lr_decay,
                min_ratio=config.min_lr_ratio,
            )
            set_learning_rate(self.optimizer, config.learning_rate * factor)
            sums = self._optimise(step, batches)
            state.step, state.examples = step.number, state.examples + step.examples
            state.epoch = state.examples / len(self.train)
            sec = time.perf_counter() - clock_sec
            state.train_sec += sec
            add(state.window, {**sums, "steps": 1, "sec": sec, "data_sec": data_sec})
            if self.reporter is not None:
                self.reporter.progress(state.step, state.examples)
            if state.step == total_steps or clock.is_due(
                every["log"],
                step=state.step,
                examples=state.examples,
                examples_before=examples_before,
            ):
                self._log(state, total_steps, config.learning_rate * factor)
        self.tracker.summary(
            {"status": status, **(state.best or {}), "final_val_loss": state.final_val_loss}
        )
        if state.best and status != "interrupted":
            console.print(
                f"best val_loss {state.best['val_loss']:.4f} at epoch {state.best['epoch']:.2f};"
                f" its weights are in {root / 'best'}"
            )
            console.print(
                f'next: python -m csm_ft.generate --model {self.folder} --text "..."', markup=False
            )
        return RunResult(status, state.step, state.examples, state.best, state.final_val_loss)

    def _collate(self, step: Step) -> list[Batch]:
        draw = Draw(self.config.seed, step.epoch)
        return [
            self.family.collate(self.train, indices, self.config, draw=draw)
            for indices in step.micro_batches
        ]

    def _optimise(self, step: Step, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimiser step.

        Parts' sums over the counts of the whole step, so that micro-batches never change the
        gradient.

        Returns what it summed, counted and timed. Raises Diverged before the weights are touched.
        """
        began = time.perf_counter()
        weights = self.family.part_weights(self.config)
        counts = {part: sum(int(b.counts[part].sum()) for b in batches) for part in weights}
        nats = {part: torch.zeros((), device=self.config.device) for part in weights}
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            seed_dropout(self.config.seed, step.number, number)
            with self._autocast():
                loss = self.model(batch.to(torch.device(self.config.device)))
            total = torch.stack(
                [weights[part] * loss[part].sum() / max(1, counts[part]) for part in weights]
            ).sum()
            total.backward()
            for part in weights:
                nats[part] += loss[part].detach().sum()
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.max_grad_norm or math.inf, foreach=True
        )
        *sums, norm_value = torch.stack(
            [*nats.values(), norm]
        ).tolist()  # the one point where the host waits for the device
        for what, value in (
            *((f"loss of {part}", s) for part, s in zip(nats, sums, strict=True)),
            ("gradient norm", norm_value),
        ):
            if not math.isfinite(value):
                raise Diverged(step.number, what)
        compute_sec = time.perf_counter() - began
        self.optimizer.step()
        frames = sum(int(self.train.num_frames[part].sum()) for part in step.micro_batches)
        return {
            **{f"nats_{part}": value for part, value in zip(nats, sums, strict=True)},
            **{f"count_{part}": count for part, count in counts.items()},
            "grad_norm": norm_value,
            "positions": sum(b.num_positions for b in batches),
            "padded": sum(b.num_padded for b in batches),
            "micro_batches": len(batches),
            "audio_sec": frames * self.store.info.frame_sec,
            "compute_sec": compute_sec,
            "update_sec": time.perf_counter() - began - compute_sec,
        }

    def _log(self, state: TrainState, total_steps: int, learning_rate: float) -> None:
        """Write the means since the last training row."""
        eta_sec = (total_steps - state.step) * state.train_sec / state.step
        means = training_row(state.window, self.family.part_weights(self.config))
        row = {
            "examples": state.examples,
            "epoch": state.epoch,
            **means,
            "learning_rate": learning_rate,
            "eta_sec": eta_sec,
            "time": time.time(),
        }
        state.window = {}
        self.tracker.row("train", state.step, row)
        parts = " ".join(
            f"{part} {row[part]:.3f}" for part in self.family.part_weights(self.config)
        )
        console.print(
            f"step {state.step}/{total_steps}  epoch {state.epoch:.2f}  loss {row['loss']:.4f}"
            f" ({parts})  lr {learning_rate:.2e}  {row['audio_sec_per_sec']:.0f}x real time,"
            f" padding {row['padding_share']:.1%}, {_clock(eta_sec)} left"
        )

    def _validate(self, state: TrainState, *, is_candidate: bool) -> None:
        """Measure the yardstick, keep the weights if they are the best so far.

        And ask the reporter whether to go on.
        """
        result = evaluate(self.model, self.family, self.val, self.config)
        if not math.isfinite(result.val_loss):
            raise Diverged(state.step, "validation loss")
        metrics = {
            "val_loss": result.val_loss,
            **{f"val_{part}": mean for part, mean in result.parts.items()},
        }
        self.tracker.row(
            "val",
            state.step,
            {"examples": state.examples, "epoch": state.epoch, **metrics, "time": time.time()},
        )
        state.final_val_loss = result.val_loss
        is_best = is_candidate and (state.best is None or result.val_loss < state.best["val_loss"])
        if is_best:
            state.best = {
                "val_loss": result.val_loss,
                "step": state.step,
                "examples": state.examples,
                "epoch": state.epoch,
            }
            save_best(
                self.folder / "checkpoints",
                self.model,
                state,
                self.family.checkpoint_config(self.model),
                result.clips,
            )
        console.print(
            f"step {state.step}  [bold]val_loss {result.val_loss:.4f}[/] nats per"
            f" frame{' (best so far)' if is_best else ''}"
        )
        if self.reporter is not None and not self.reporter.validated(state.examples, metrics):
            state.stopped = True

    def _save(self, root: Path, state: TrainState) -> None:
        saved = replace(state, metrics_bytes=self.tracker.num_bytes)
        save_checkpoint(
            root,
            self.model,
            self.optimizer,
            saved,
            self.family.checkpoint_config(self.model),
            keep_last=self.config.keep_last,
        )

    def _warmup_steps(self, clock: Clock) -> int:
        wanted, longest = (
            clock.steps(Duration.parse(self.config.warmup_steps)),
            clock.total_steps // 2,
        )
        if wanted > longest > 0:
            console.print(
                f"[yellow]warmup_steps {wanted} does not fit a run of {clock.total_steps} steps:"
                f" warming up for {longest}[/]"
            )
        return min(wanted, longest)

    def _announce(self, state: TrainState, total_steps: int, is_resumed: bool) -> None:
        parameters = list(self.model.parameters())
        millions, trained = (
            sum(p.numel() for p in group) / 1e6
            for group in (parameters, [p for p in parameters if p.requires_grad])
        )
        part = (
            "" if trained == millions else f" (method {self.config.method} trains {trained:.3g} M)"
        )
        console.print(f"{millions:.1f} M weights{part}; {total_steps} optimiser steps")
        console.print(f"{_count(self.train)} to train on, {_count(self.val)} to validate")
        if is_resumed:
            console.print(
                f"going on from step {state.step}"
                if state.step < total_steps and not state.stopped
                else "this run is complete already"
            )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.config.device.split(":")[0],
            dtype=torch.bfloat16,
            enabled=self.config.dtype == "bf16",
        )


def _plan(config: TrainConfig, train: Examples) -> BatchPlan:
    options = BatchOptions(
        **{name: getattr(config, name) for name in BatchOptions.__dataclass_fields__}
    )
    return BatchPlan(train.costs, options)


def _count(examples: Examples) -> str:
    clips = f"{len(examples.rows)} clips"
    return clips if len(examples.rows) == len(examples) else f"{clips} in {len(examples)} examples"


def _clock(sec: float) -> str:
    return f"{int(sec) // 3600}:{int(sec) // 60 % 60:02d}:{int(sec) % 60:02d}"


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether Ctrl-C (or SIGTERM) was pressed; the second one leaves at once.

    The handlers before are put back.
    """
    pressed: list[int] = []

    def press(number: int, _frame: object) -> None:
        if pressed:
            os._exit(130)
        pressed.append(number)
        console.print("finishing this step and saving; once more to leave at once")

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(pressed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> int:
    """Command line.

    0 done, 2 a mistake in the options, 3 diverged, 130 interrupted (the same command goes on).
    """
    load_env_files()
    try:
        family = read_values(config_class(), argv, program="train.py", description=DESCRIPTION).get(
            "family", "csm"
        )
        config = parse_args(
            config_class(str(family)), argv, program="train.py", description=DESCRIPTION
        )
        with _interruptible() as should_pause:
            result = run(config, should_pause=should_pause)
    except (ConfigError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"diverged: {error}", file=sys.stderr)
        return 3
    if result.status == "interrupted":
        console.print(f"stopped after step {result.step}; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
