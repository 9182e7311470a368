"""Tells what a sweep would do, and starts and writes nothing: `python sweep.py ... --dry_run`."""

from collections.abc import Callable, Iterator
from pathlib import Path

from csm_ft.atomic import describe_disk
from csm_ft.config.train import TrainConfig
from csm_ft.errors import UserError
from csm_ft.report.data import read_summary
from csm_ft.report.templating import duration
from csm_ft.runs.sizes import Sizes
from csm_ft.sweep.cost import expected_runs
from csm_ft.sweep.disk import needed_bytes, num_kept_weights
from csm_ft.sweep.finalists import num_planned_reruns
from csm_ft.sweep.records import Summary
from csm_ft.sweep.space import MAX_SETTINGS
from csm_ft.sweep.trials import Configs, Plan

Measure = Callable[[TrainConfig], Sizes]


def describe_plan(plan: Plan, configs: Configs, measure: Measure) -> str:
    """Return the plan of a sweep, one fact per line."""
    folder = configs.folder
    before = read_summary(folder) if folder.summary.is_file() else None
    lines = [
        _beginning(folder.path, plan, before),
        *_trials(plan),
        _workers(plan, configs),
        _time(plan, configs, before),
        *_sizes(plan, configs, measure),
        "nothing was started or written",
    ]
    return "\n".join(lines)


def _beginning(path: Path, plan: Plan, before: Summary | None) -> str:
    name = f"plan of {plan.sweep.study_name} in {path}"
    if before is None:
        return f"{name}: a new study"
    num_open = sum(not trial.has_ended for trial in before.begun)
    return f"{name}: {before.num_ended} trials have ended, {num_open} continue"


def _trials(plan: Plan) -> Iterator[str]:
    names = ", ".join(parameter.name for parameter in plan.space.parameters)
    settings = plan.space.settings(MAX_SETTINGS)
    limit = f" ({len(settings)} settings)" if settings is not None else ""
    yield f"trials: {plan.sweep.n_trials} over {names}{limit}, after the untrained model"
    end = plan.rungs.horizon_examples
    rungs = ", ".join(f"{round(share * end)}" for share in plan.rungs.shares)
    each = f"each: {round(end)} {plan.rungs.unit}"
    if plan.sweep.pruner == "none":
        yield f"{each}; none is stopped early"
    elif plan.sweep.pruner == "median":
        yield f"{each}; those behind the median stop"
    else:
        yield f"{each}, compared after {rungs}: 1/{plan.sweep.eta} continue"
    yield _cost(plan)


def _workers(plan: Plan, configs: Configs) -> str:
    names, size = ", ".join(slot.name for slot in configs.machine.slots), plan.sweep.gpus_per_trial
    if size == 1:
        return f"workers: {names}"
    what = "processes on the CPU" if configs.machine.device == "cpu" else "GPUs"
    parallel = "ddp" if configs.base.parallel == "auto" else configs.base.parallel
    return f"workers: {names}; each trains a trial on {size} {what} ({parallel})"


def _cost(plan: Plan) -> str:
    """Say what the search costs, and what seeds add, in runs to the end."""
    search, confirm = expected_runs(plan), plan.sweep.seeds_to_confirm
    cost = f"cost: about {search:.0f} full runs for the search"
    if confirm is None:
        return f"{cost}; --confirm 3x2 would add {2 * (1 + 3)} to tell luck from gain"
    num_runs = num_planned_reruns([], confirm)
    which = f" and the best {confirm.num_settings}" if confirm.num_settings else ""
    return (
        f"{cost}, {search + num_runs:.0f} with {num_runs} more runs of the default{which}, by"
        f" {confirm.num_seeds} more seeds each"
    )


def _time(plan: Plan, configs: Configs, before: Summary | None) -> str:
    ended = [trial for trial in before.trials if trial.has_ended] if before else []
    seconds = [trial.seconds for trial in ended if trial.seconds]
    if not seconds:
        return "time: not known before a trial has ended"
    confirm = plan.sweep.seeds_to_confirm
    num_searched = sum(trial.purpose == "search" for trial in ended)
    num_left = max(0, plan.sweep.n_trials - num_searched)
    num_left += num_planned_reruns(ended, confirm) if confirm else 0
    left_sec = num_left * sum(seconds) / len(seconds) / len(configs.machine.slots)
    return f"time: about {duration(left_sec)} for {num_left} more, as for those that have ended"


def _sizes(plan: Plan, configs: Configs, measure: Measure) -> Iterator[str]:
    try:
        sizes = measure(configs.base.replace(device=configs.machine.device))
    except UserError as error:
        yield f"disk and memory: not known: {error}"
        return
    num_workers = len(configs.machine.slots)
    disk = needed_bytes(
        sizes,
        num_workers=num_workers,
        num_trials=plan.sweep.n_trials,
        num_kept=num_kept_weights(plan.sweep.seeds_to_confirm),
    )
    yield (
        f"disk: up to {disk / 1e6:,.0f} MB for weights and checkpoints"
        f" ({describe_disk(configs.folder.path)})"
    )
    size = plan.sweep.gpus_per_trial
    place = f"on each of the {size} GPUs of a trial" if size > 1 else "per trial"
    memory_bytes = sizes.memory_bytes / (size if configs.base.parallel == "fsdp" else 1)
    yield (
        f"memory: {memory_bytes / 1e6:,.0f} MB {place} for weights, gradients, optimiser,"
        " besides activations"
    )
