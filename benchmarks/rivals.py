"""What the same simulated trials cost with Optuna alone and with Ray Tune, beside a sweep.

python -m benchmarks.rivals                        all three; Ray Tune takes minutes
python -m benchmarks.rivals --page docs/sweep.md    the table goes into the page

Each is used as its own documentation begins: Optuna's TPE and median pruner; Ray Tune's
OptunaSearch and ASHA. Trials are those of benchmarks/worlds.py, four at a time, validated nine
times. CPU-seconds are those of trials that take no time, starting and ending included: of a whole
sweep with its worker processes and its page, of Optuna with its journal in one process, and of Ray.
"""

import heapq
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from benchmarks.search import NUM_WORKERS, put_into, simulate
from benchmarks.timing import children_clock, run_child
from benchmarks.worlds import Synthetic
from csm_ft import cli
from csm_ft.config.base import Options, option
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import find_space, read_rows
from csm_ft.sweep.space import Space, make_space

NUM_POINTS = 9
SPACE = "configs/sweep.yaml"


class RivalsConfig(Options):
    """Options of `python -m benchmarks.rivals`."""

    n_trials: int = option(50, "Trials of each search.", group="search", ge=3)
    n_seeds: int = option(20, "Searches by csm-ft and by Optuna.", group="search", ge=2)
    ray_seeds: int = option(3, "Searches by Ray Tune; 0 = none.", group="search", ge=0)
    page: str = option(
        "",
        "Markdown page whose table is replaced, between its two marks.",
        group="search",
        path=True,
    )


@dataclass(frozen=True)
class Found:
    """What a search cost and found."""

    cost: float  # in whole runs
    regret: float  # of its best trial, above the optimum, without noise
    cpu_sec: float | None  # per trial, as trials take no time; None = not measured


def by_sweep(seed: int, n_trials: int) -> Found:
    """Search as sweep.py does: its sampler, pruner and verdict, without its processes."""
    argv = ["--n_trials", str(n_trials), "--seed", str(seed)]
    found = simulate(Synthetic(seed), argv, SPACE)
    if seed:  # once is enough, and takes long
        return Found(found.cost, found.regret, None)
    began = _cpu_sec()
    with tempfile.TemporaryDirectory() as folder:
        run_child(
            [
                *(sys.executable, "-m", "benchmarks.noop_trainer", "--data", "none"),
                *("--family", "csm", "--sweep_config", SPACE, "--wandb", "off", "--device", "cpu"),
                *("--n_gpus", str(NUM_WORKERS), "--output_dir", f"{folder}/sweep", *argv),
            ]
        )
    return Found(found.cost, found.regret, (_cpu_sec() - began) / n_trials)


def by_optuna(seed: int, n_trials: int) -> Found:
    """Search as Optuna's tutorial does; a trial that diverges fails, as with an exception."""
    world, space = Synthetic(seed), open_space()
    sampler = optuna.samplers.TPESampler(seed=seed)
    pruner = optuna.pruners.MedianPruner()
    with tempfile.TemporaryDirectory() as folder:
        storage = JournalStorage(JournalFileBackend(f"{folder}/study.journal"))
        study = optuna.create_study(storage=storage, sampler=sampler, pruner=pruner)
        return _timed(lambda: _ask_and_tell(study, world, space, n_trials), n_trials)


@dataclass(frozen=True)
class _Searched:
    cost: float
    regret: float


def _ask_and_tell(study: optuna.Study, world: Synthetic, space: Space, n_trials: int) -> _Searched:
    running: list[tuple[int, int, int]] = []  # (when, trial, validation), by time
    trials: dict[int, tuple[Trial, Mapping[str, Any]]] = {}
    now = num_intervals = 0
    while len(trials) < n_trials or running:
        while len(running) < NUM_WORKERS and len(trials) < n_trials:
            trial = study.ask()
            trials[trial.number] = (trial, space.suggest(trial))
            heapq.heappush(running, (now + 1, trial.number, 1))
        now, number, point = heapq.heappop(running)
        num_intervals += 1
        trial, params = trials[number]
        value = world.value(params, 0, point / NUM_POINTS)
        if value is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.report(value, point)
        if point == NUM_POINTS:
            study.tell(trial, value)
        elif trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
        else:
            heapq.heappush(running, (now + 1, number, point + 1))
    regret = world.truth(study.best_trial.params) - world.optimum
    return _Searched(num_intervals / NUM_POINTS, regret)


def by_ray_tune(seed: int, n_trials: int) -> Found:
    """Search as Ray Tune's guide to Optuna does, with its ASHA, on a Ray of its own."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    world, space = Synthetic(seed), open_space()

    def train(config: dict[str, Any]) -> None:
        for point in range(1, NUM_POINTS + 1):
            value = world.value(config, 0, point / NUM_POINTS)
            if value is None:
                raise FloatingPointError("diverged")
            tune.report({"loss": value, "point": point})

    def search() -> _Searched:
        ray.init(  # type: ignore
            "local", num_cpus=NUM_WORKERS, include_dashboard=False, log_to_driver=False
        )
        distributions = {p.name: p.distribution for p in space.parameters}
        searcher = OptunaSearch(distributions, metric="loss", mode="min", seed=seed)
        scheduler = ASHAScheduler("point", max_t=NUM_POINTS, grace_period=1, reduction_factor=3)
        with tempfile.TemporaryDirectory() as folder:
            results = tune.Tuner(
                tune.with_resources(train, {"cpu": 1}),
                tune_config=tune.TuneConfig(
                    metric="loss",
                    mode="min",
                    search_alg=ConcurrencyLimiter(searcher, NUM_WORKERS),
                    scheduler=scheduler,
                    num_samples=n_trials,
                ),
                run_config=tune.RunConfig(storage_path=folder, verbose=0),
            ).fit()
            points = [(one.metrics or {}).get("point", 1) for one in results]
            best = results.get_best_result().config
        ray.shutdown()
        assert best is not None, "it has the settings that it was given"
        return _Searched(sum(points) / NUM_POINTS, world.truth(best) - world.optimum)

    return _timed(search, n_trials)


def open_space() -> Space:
    """Return the space of all three."""
    return make_space(read_rows(find_space(SPACE), parse(["--wandb", "off"])), 9000)


def _timed(search: Callable[[], _Searched], n_trials: int) -> Found:
    began = _cpu_sec()
    found = search()
    return Found(found.cost, found.regret, (_cpu_sec() - began) / n_trials)


def _cpu_sec() -> float:
    """Return the CPU time of this process and of those that it has started and that have ended."""
    return time.process_time() + children_clock()


def _row(name: str, found: Sequence[Found]) -> str:
    regrets = [one.regret for one in found]
    error = f" ± {stdev(regrets) / len(regrets) ** 0.5:.4f}" if len(regrets) > 1 else ""
    cpu_sec = median(one.cpu_sec for one in found if one.cpu_sec is not None)
    return (
        f"| {name} | {len(found)} | {fmean(one.cost for one in found):.1f} |"
        f" {fmean(regrets):.4f}{error} | {cpu_sec:.2f} |"
    )


def measure(config: RivalsConfig) -> str:
    """Return the table, in Markdown."""
    lines = ["| program | searches | whole runs | regret ± error | CPU-s per trial |"]
    lines.append("|---|---|---|---|---|")
    searches: Mapping[str, tuple[Callable[[int, int], Found], int]] = {
        "csm-ft": (by_sweep, config.n_seeds),
        "Optuna alone": (by_optuna, config.n_seeds),
        "Ray Tune": (by_ray_tune, config.ray_seeds),
    }
    for name, (search, n_seeds) in searches.items():
        found = [search(seed, config.n_trials) for seed in range(n_seeds)]
        if found:
            lines.append(_row(name, found))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Command line; 0 measured, 2 user error."""
    return cli.run_program(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    config = cli.parse_args(
        RivalsConfig, argv, program="-m benchmarks.rivals", description=description
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    about = (
        f"{date.today().isoformat()}, `python -m benchmarks.rivals`: {config.n_trials} trials that"
        f" take no time, four at a time."
    )
    print(about)
    table = measure(config)
    if config.page:
        put_into(Path(config.page), "rivals", f"{about}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
