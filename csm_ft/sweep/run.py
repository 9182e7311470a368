"""Runs a sweep from its parsed command to the files that it leaves. Imports no torch."""

import contextlib
import importlib
import shlex
import time
from pathlib import Path

from rich.markup import escape

from csm_ft.config.train import TrainConfig
from csm_ft.console import console, interruptible
from csm_ft.errors import ConfigError
from csm_ft.runs.folder import SweepFolder
from csm_ft.runs.wandb_settings import choose_reachable_wandb_mode
from csm_ft.runs.yardstick import describe_kept, kept_options
from csm_ft.sweep.broker import Broker
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.display import Display
from csm_ft.sweep.lanes import check_lanes
from csm_ft.sweep.limits import Limits
from csm_ft.sweep.mirror import mirrored
from csm_ft.sweep.ranking import rankings_in_words
from csm_ft.sweep.records import Summary, TrialRecord
from csm_ft.sweep.report_process import ReportProcess
from csm_ft.sweep.repro import write_repro
from csm_ft.sweep.request import SweepRequest
from csm_ft.sweep.results import Results
from csm_ft.sweep.rows import find_space, read_rows
from csm_ft.sweep.samplers import check_sampler
from csm_ft.sweep.slots import Machine, check_parallel, choose_machine
from csm_ft.sweep.space import make_space
from csm_ft.sweep.stop import findable
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import (
    Configs,
    DataFacts,
    DataWatch,
    Describe,
    EpochAudio,
    Plan,
    changes_examples,
    describe_data,
    objective_of,
    plan_study,
)

INTERRUPTED = 130
SPACING_SEC = 1.0  # between two writings of the results, at least
LARGEST_SHARE = 0.05  # of the time that writing them may take
MOST_RANKINGS = 3  # sentences at the end; the page has them all


class _Followers:
    """Everything that follows the sweep: the terminal, the files of results and the page."""

    def __init__(self, display: Display, results: Results, page: ReportProcess) -> None:
        self._display, self._results, self._page = display, results, page
        self._is_stale, self._due_sec = False, 0.0

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        """Bring everything up to date after a trial."""
        self._display.ended(trial, best)
        self._is_stale = True
        self._write_when_due()

    def update(self, num_running: int, best: TrialRecord | None) -> None:
        """Redraw the bar."""
        self._display.update(num_running, best)
        self._write_when_due()

    def _write_when_due(self) -> None:
        """Write the files of results, but not for each of many short trials."""
        began_sec = time.monotonic()
        if self._is_stale and began_sec >= self._due_sec:
            self._results.write("running")
            self._page.refresh()
            took_sec = time.monotonic() - began_sec
            self._is_stale = False
            self._due_sec = time.monotonic() + max(SPACING_SEC, took_sec / LARGEST_SHARE)


def run_sweep(
    request: SweepRequest, *, trainer: str = "train", describe: Describe | None = None
) -> int:
    """Run or resume a study and return the exit code: 0, 1 = nothing completed, 130 = interrupted.

    Raises UserError, and SweepAborted when the trainer cannot run.
    """
    describe = describe or describe_data
    plan, configs, data = _prepare(request, describe, trainer)
    folder, options, base = configs.folder, configs.sweep, configs.base
    with contextlib.closing(configs.machine):
        if options.dry_run:
            from csm_ft.sweep.dry_run import describe_plan

            measure = importlib.import_module(trainer).measure_sizes
            console.print(describe_plan(plan, configs, measure), markup=False)
            return 0
        study = SweepStudy.open(folder, plan)
        with contextlib.closing(study):
            watch = DataWatch(base, data, describe)
            write_repro(folder, plan, request.argv)
            with findable(folder), mirrored(folder.journal, options.study_name, options.storage):
                end, summary = _search(study, configs, trainer, watch)
            if base.wandb != "off":
                from csm_ft.sweep.wandb_run import mirror_sweep  # here: it imports sound files

                mirror_sweep(folder, options, base)
            return _conclude(study, end, summary)


def _prepare(
    request: SweepRequest, describe: Describe, trainer: str
) -> tuple[Plan, Configs, DataFacts]:
    """Check the command, the search space, the data and the machine; nothing is written."""
    options = request.sweep
    rows = read_rows(find_space(options.sweep_config), request)
    data = describe(rows.base)
    space = make_space(rows, data.num_train_examples)
    if warning := check_sampler(options, space):
        console.print(warning, style="yellow", markup=False)
    check_parallel(options, space.base.parallel)
    check_lanes(options, space)
    base = space.base.replace(wandb=choose_reachable_wandb_mode(space.base.wandb))  # for all trials
    folder = SweepFolder(Path(options.output_dir))
    if said := describe_kept(base, kept_options(base, folder.baseline.config)):
        console.print(f"{said}; another --output_dir begins anew", style="yellow", markup=False)
    if options.cluster:
        machine = _open_cluster(options, base, folder, trainer)
    else:
        machine = choose_machine(options, device=base.device, threads=base.threads)
        machine = machine.with_lanes(options.packed_lora)
    audio = EpochAudio(describe) if changes_examples(space) else None
    configs = Configs(folder, options, base, machine, data.longest_positions, audio, space.compute)
    return plan_study(options, space, data), configs, data


def _open_cluster(
    options: SweepConfig, base: TrainConfig, folder: SweepFolder, trainer: str
) -> Machine:
    try:
        from csm_ft.sweep.cluster import Cluster  # here: Ray is an option
    except ImportError as error:
        raise ConfigError(
            f"cluster {options.cluster} needs Ray: pip install -r requirements-cluster.txt"
        ) from error
    return Cluster(options, base, folder, trainer)


def _search(
    study: SweepStudy, configs: Configs, trainer: str, watch: DataWatch
) -> tuple[str, Summary]:
    """Run the trials that are left; return how that ended, and what was found."""
    options, folder = configs.sweep, configs.folder
    objective = objective_of(configs.base)
    results, page = Results(study, configs, objective), ReportProcess(folder.path)
    num_ended = sum(record.has_ended for record in study.records())
    where = f"[bold]{escape(options.study_name)}[/] in {escape(str(folder.path))}"
    num_trials = study.num_planned
    done = f"{num_ended} of {num_trials} trials done"
    console.print(f"{where}: {done}, {len(study.running)} to resume")
    results.write("running")
    display = Display(
        objective.metric,
        n_trials=num_trials,
        num_workers=len(configs.machine.slots),
        num_done=num_ended,
        seed=configs.base.seed,
    )
    with display:
        followers = _Followers(display, results, page)
        broker = Broker(
            study,
            configs,
            objective,
            trainer=trainer,
            watcher=followers,
            check_data=watch.check,
            limit=Limits(study, options).reached,
        )
        end = "aborted"
        message = "running trials are being saved; press Ctrl-C again to quit"
        try:
            with interruptible(message, lambda _: broker.stop()):
                end = broker.run()
        finally:
            summary = results.write("finished" if end == "finished" else "unfinished")
            page.finish()
    return end, summary


def _conclude(study: SweepStudy, end: str, summary: Summary) -> int:
    """Print what was found and what to do next; return the exit code."""
    folder = study.folder
    if end == "interrupted":
        console.print("stopped; running trials are saved. The same command resumes them")
        return INTERRUPTED
    if study.why_ended:
        console.print(study.why_ended, markup=False)
    found = summary.verdict.text if summary.verdict else ""
    if summary.best is None:
        console.print(
            f"[red]{escape(found) or 'no trial completed'}[/]; {folder.table} says why;"
            f" {folder.best_config} is marked unfinished"
        )
        return 1
    num_wanted, num_searched = study.plan.sweep.n_trials, study.points.num_searched
    if plateau := study.points.plateau():
        console.print(plateau, markup=False)
    elif num_searched < num_wanted and not study.why_ended:
        console.print(
            f"all {study.points.num_settings} settings of the space have been tried, so"
            f" {num_wanted - num_searched} of {num_wanted} trials were not run: a repeated"
            " setting gives the same numbers. A wider space has more to find, and --repeat_seeds"
            " tells luck from gain"
        )
    console.print(f"\n[bold]{escape(found)}[/]")
    for sentence in rankings_in_words(summary.rankings)[:MOST_RANKINGS]:
        console.print(sentence, markup=False)
    if summary.preference:
        console.print(summary.preference.text, markup=False)
    console.print(
        f"next: python train.py --config {shlex.quote(str(folder.best_config))}", markup=False
    )
    console.print(f"report: {folder.report}", markup=False)
    return 0
