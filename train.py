"""Train a speech model on a token file: `python train.py --data tokens.hdf5`. See --help.

`run` below is THE loop: once in a while validate, sample, save; then one optimiser step. A sweep's
workers run the same function.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from csm_ft.cli import parse_args, run_program
from csm_ft.config.train import TrainConfig
from csm_ft.console import console, interruptible
from csm_ft.errors import Diverged
from csm_ft.families import choose_family, open_family
from csm_ft.runs.sizes import Sizes
from csm_ft.sweep.messages import Doing

if TYPE_CHECKING:
    from csm_ft.training.lanes import Lanes

DESCRIPTION = "Fine-tune a speech model on a token file written by pretokenize.py."


class Reporter(Protocol):
    """Who watches a run from outside: a sweep."""

    def alive(self, doing: Doing | None = None) -> None:
        """The run begins something, or still does what it began."""
        ...

    def progress(self, step: int, examples: int) -> None:
        """An optimiser step is done, after so many examples (RunPlan.distance)."""
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
    best: dict[str, Any] | None  # validation metrics, step, examples, epoch
    metrics: dict[str, float]  # of the last validation
    reason: str = ""  # why it ended before its last step


def run(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    should_pause: Callable[[], bool] = lambda: False,
    only_measure: bool = False,
    lanes: "Lanes | None" = None,
) -> RunResult:
    """Train as `config` says; with the same config, resume from the last checkpoint.

    Raises a UserError (options, data or machine) or Diverged. `only_measure` takes no step. `lanes`
    are the runs of other threads that share passes with this one.
    """
    # Imported here, so that --help and a wrong flag need no torch.
    from csm_ft.runs.checkpoint import save_best, save_checkpoint
    from csm_ft.runs.metrics import add, training_line, training_row
    from csm_ft.training.best import last_metrics, measure_best
    from csm_ft.training.launch import open_ranks
    from csm_ft.training.optim import averaged, set_learning_rate
    from csm_ft.training.profiling import profiled
    from csm_ft.training.setup import open_setup
    from csm_ft.training.step import after_each_forward, optimizer_step

    watched = after_each_forward(reporter.alive) if reporter else nullcontext()
    with (
        open_ranks(config, lanes) as (ranks, config),
        open_setup(config, ranks, only_measure=only_measure) as setup,
        watched,
        profiled(setup.config, setup.folder, ranks) as after_step,
    ):
        config, family, plan, state = setup.config, setup.family, setup.plan, setup.state
        model, optimizer = setup.trained.model, setup.trained.optimizer
        alive = ranks.watch(reporter.alive if reporter else ignore)
        folder, tracker = setup.folder, setup.tracker
        terms, steps = family.loss_terms(config), setup.batches()
        just_resumed, examples_before, status = setup.is_resumed, state.examples, "completed"
        while True:
            is_last = plan.is_last(state)
            is_first = state.step == 0 and (config.measure_base or is_last)
            # All of this was done before the checkpoint that a run resumes from was saved.
            if not just_resumed:
                # Once in a while: validate, let judges listen, and keep the best weights so far.
                hears = setup.has_judge and (
                    is_first or plan.is_due("judge", state, examples_before)
                )
                if is_first or hears or plan.is_due("val", state, examples_before):
                    alive("validation")
                    with averaged(optimizer):
                        result = setup.validate(state, all_targets=only_measure)
                        metrics = result.metrics
                        if hears:
                            alive("judging")
                            metrics = {**metrics, **setup.judged(state)}
                        seen = plan.seen(state)
                        tracker.row("val", state.step, {**seen, **metrics, "time": time.time()})
                        is_best = plan.is_best(state, metrics)
                        state.metrics = metrics
                        if is_best:
                            state.best = {**metrics, "step": state.step, **seen}
                            alive("saving")
                            save_best(folder, setup.trained, state, result.clips)
                    loss = f"[bold]val_loss {result.in_words}[/] {family.yardstick.unit}"
                    mark = " (best so far)" if is_best else ""
                    console.print(f"step {state.step}  {loss}{mark}")
                    ends = reporter and not reporter.validated(plan.distance(state), metrics)
                    state.stopped |= ranks.any(value=bool(ends))  # the first rank is told
                    state.improvement = plan.follow(state, metrics)
                    if early := plan.early_stop(state):
                        console.print(early)
                # Once in a while: generate samples.
                if setup.has_samples and (is_first or plan.is_due("gen", state, examples_before)):
                    alive("samples")
                    with averaged(optimizer):
                        setup.sample(state)
                # Once in a while: save.
                paused = ranks.any(value=should_pause())
                if plan.total_steps and (paused or plan.is_due("save", state, examples_before)):
                    alive("saving")
                    saved = replace(state, metrics_bytes=tracker.num_bytes)
                    with averaged(optimizer):
                        save_checkpoint(folder, setup.trained, saved, keep_last=config.keep_last)
                is_last = plan.is_last(state)
                if paused and not is_last:
                    status = "interrupted"
                    break
            if is_last:
                status = "stopped" if state.stopped else "completed"
                break

            # One optimiser step.
            just_resumed, examples_before, began = False, state.examples, time.perf_counter()
            step, batches = next(steps)
            data_sec = time.perf_counter() - began
            learning_rate = plan.learning_rate(state.step)
            set_learning_rate(optimizer, learning_rate)
            scale = state.loss_scale
            sums = optimizer_step(model, optimizer, step, batches, config, terms, ranks, scale)
            state.step, state.examples = step.number, state.examples + step.examples
            state.epoch = state.examples / len(setup.train)
            sec = time.perf_counter() - began
            state.train_sec += sec
            add(state.window, {**sums, "steps": 1, "sec": sec, "data_sec": data_sec})
            after_step()
            if reporter:
                reporter.progress(state.step, plan.distance(state))
            if plan.is_due("log", state, examples_before):
                row = {"examples": state.examples, "epoch": state.epoch}
                row |= training_row(state.window, terms)
                eta_sec = (plan.total_steps - state.step) * state.train_sec / state.step
                row |= {"learning_rate": learning_rate, "eta_sec": eta_sec, "time": time.time()}
                tracker.row("train", state.step, row)
                console.print(training_line(state.step, plan.total_steps, row, terms))
                state.window = {}
        best = state.best
        if status != "interrupted":
            best = measure_best(setup, alive)
        if setup.judge and not reporter:  # a sweep has a page of its own
            _build_page(folder.path)
        metrics = last_metrics(state, best)
        tracker.summary({"status": status, **(best or {}), "last": metrics})
        if best and status != "interrupted":
            _announce_best(config, best, folder.best)
        reason = plan.early_stop(state)
    return RunResult(status, state.step, state.examples, best, metrics, reason)


def run_baseline(config: TrainConfig, reporter: Reporter | None = None) -> RunResult:
    """Validate the untrained model and generate its samples; no step is taken."""
    return run(config, reporter, only_measure=True)


def make_lanes() -> "Lanes":
    """Return what runs in threads of this process share passes by."""
    from csm_ft.training.lanes import Lanes

    return Lanes()


def measure_sizes(config: TrainConfig) -> Sizes:
    """Return what a run would need of disk and memory; nothing is trained or downloaded."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from csm_ft.training.sizes import measure_sizes

    return measure_sizes(config)


def ignore(doing: Doing | None = None) -> None:
    """Take the place of Reporter.alive where nobody watches."""


def _build_page(folder: Path) -> None:
    from csm_ft.report.run_page import build_run_page

    console.print(f"page: {build_run_page(folder)}", markup=False)


def _announce_best(config: TrainConfig, best: Mapping[str, Any], weights: Path) -> None:
    value = f"{config.best_by} {best[config.best_by]:.4f} at epoch {best['epoch']:.2f}"
    console.print(f"best {value}; its weights are in {weights}")
    command = shlex.join(["python", "-m", "csm_ft.generate", "--model", config.output_dir])
    example = open_family(config.family).generate_example
    console.print(f"next: {command} {example}".rstrip(), markup=False)


def _quit_at_the_second(num_presses: int) -> None:
    if num_presses > 1:
        os._exit(130)


def main(argv: Sequence[str]) -> int:
    """Command line; 0 done, 2 user error, 3 diverged, 130 interrupted (run it again to resume)."""

    def program() -> int:
        family = choose_family(argv)
        config_class = open_family(family).train_config
        config = parse_args(config_class, argv, program="train.py", description=DESCRIPTION)
        if config.dry_run:
            from csm_ft.training.dry_run import describe_run

            for line in describe_run(config.replace(family=family)):
                if os.environ.get("RANK", "0") == "0":
                    print(line, flush=True)
            return 0
        message = "finishing this step and saving; press Ctrl-C again to quit"
        with interruptible(message, _quit_at_the_second) as should_pause:
            result = run(config.replace(family=family), should_pause=should_pause)
        if result.status == "interrupted":
            console.print(f"stopped after step {result.step}; the same command resumes from here")
            return 130
        return 0

    try:
        return run_program(program)
    except Diverged as error:
        print(f"diverged: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
