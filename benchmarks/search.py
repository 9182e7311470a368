"""What a search costs and finds, by strategy: simulated trials, real sampler, pruner and verdict.

python -m benchmarks.search                        synthetic landscapes
python -m benchmarks.search --curves curves.json   recorded curves (python -m benchmarks.curves)
python -m benchmarks.search --page docs/sweep.md    the table goes into the page
"""

import heapq
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import fmean, stdev

import optuna

from benchmarks.curves import read_recording
from benchmarks.worlds import Recorded, Synthetic, World
from csm_ft import cli
from csm_ft.atomic import write_whole
from csm_ft.config.base import Options, option
from csm_ft.errors import UserError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.finalists import choose_best, judge_finalists
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import find_space, read_rows
from csm_ft.sweep.space import make_space
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import DataFacts, plan_study

NUM_EXAMPLES = 9000  # of a run: no batch size of the spaces lets a rung fall between two steps
NUM_WORKERS = 4
STRATEGIES: Mapping[str, Sequence[str]] = {
    "random, none stopped": ("--sampler", "random", "--pruner", "none"),
    "tpe, none stopped": ("--pruner", "none"),
    "tpe, median": ("--pruner", "median"),
    "tpe, hyperband": ("--pruner", "hyperband"),
    "tpe, asha (the default)": (),
    "the same, --confirm 3x2": ("--confirm", "3x2"),
}


class SearchConfig(Options):
    """Options of `python -m benchmarks.search`."""

    n_trials: int = option(50, "Trials of each search.", group="search", ge=3)
    n_seeds: int = option(20, "Searches of each strategy.", group="search", ge=2)
    sweep_config: str = option("configs/sweep.yaml", "The search space.", group="search", path=True)
    curves: str = option(
        "", "Recorded curves, in place of synthetic ones.", group="search", path=True
    )
    page: str = option(
        "",
        "Markdown page whose table is replaced, between its two marks.",
        group="search",
        path=True,
    )
    noise: float = option(
        0.004, "Standard deviation over seeds of one setting.", group="search", ge=0
    )


@dataclass(frozen=True)
class Searched:
    """What one search cost and found."""

    cost: float  # in runs to the end
    regret: float  # of what it leaves, above the optimum, without noise
    num_diverged: int


def simulate(world: World, argv: Sequence[str], sweep_config: str) -> Searched:
    """Run one search; `argv` are options of sweep.py.

    The study is the sweep's own, in memory; four workers train trials that cost equal times.
    """
    request = parse([*argv, "--wandb", "off"])
    space = make_space(read_rows(find_space(sweep_config), request), NUM_EXAMPLES)
    space = replace(space, base=space.base.replace(n_epochs=1))
    plan = plan_study(request.sweep, space, DataFacts(NUM_EXAMPLES, "simulated"))
    with tempfile.TemporaryDirectory() as folder:
        study = SweepStudy(SweepFolder(Path(folder)), plan, optuna.create_study())
        study.set_baseline({"val_loss": world.untrained})
        return _search(study, world)


def _search(study: SweepStudy, world: World) -> Searched:
    num_points = round(1 / study.plan.rungs.validation_share)
    running: list[tuple[int, int, int]] = []  # (when, trial, validation), by time
    now = num_intervals = 0
    while True:
        while len(running) < NUM_WORKERS and study.num_new:
            number = study.ask()
            study.params(number)
            heapq.heappush(running, (now + 1, number, 1))
        if not running:
            break
        now, number, point = heapq.heappop(running)
        num_intervals += 1
        if _validate(study, world, number, point / num_points):
            heapq.heappush(running, (now + 1, number, point + 1))
    records = study.records()
    objective, noise = study.plan.objective, study.noise()
    found = judge_finalists(records, study.plan.sweep.seeds_to_confirm, objective, noise)
    best = choose_best(records, found, objective)
    assert best is not None, "trial 0 is never stopped"
    diverged = sum(record.state == "diverged" for record in records)
    return Searched(num_intervals / num_points, world.truth(best.params) - world.optimum, diverged)


def _validate(study: SweepStudy, world: World, number: int, share: float) -> bool:
    """Let a trial validate, and end where it should; return whether it goes on."""
    params, examples = study.params(number), round(share * NUM_EXAMPLES)
    value = world.value(params, study.seed(number), share)
    if value is None:
        study.finish(number, "diverged", reason="simulated")
        return False
    may_continue = study.validated(number, examples, {"val_loss": value})
    if may_continue and share < 1:
        return True
    curve = study.record(number).curve
    at = min((e for e in curve if e >= study.plan.rungs.examples[0]), key=curve.__getitem__)
    best = {"val_loss": curve[at], "examples": at, "epoch": share, "step": at}
    study.finish(number, "completed" if may_continue else "stopped", best=best, final_value=value)
    return False


def measure(config: SearchConfig, strategies: Mapping[str, Sequence[str]]) -> str:
    """Return the table, in Markdown."""
    lines = ["| strategy | whole runs | regret ± error | diverged |", "|---|---|---|---|"]
    for name, argv in strategies.items():
        found = [
            simulate(
                _world(config, seed),
                [*argv, "--n_trials", str(config.n_trials), "--seed", str(seed)],
                config.sweep_config,
            )
            for seed in range(config.n_seeds)
        ]
        regrets = [one.regret for one in found]
        error = stdev(regrets) / len(regrets) ** 0.5
        lines.append(
            f"| {name} | {fmean(one.cost for one in found):.1f} | {fmean(regrets):.4f} ±"
            f" {error:.4f} | {fmean(one.num_diverged for one in found):.1f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def put_into(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of this name; UserError where they are missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8")
    if begin not in content or end not in content:
        raise UserError(f"{page}: the marks {begin.strip()} and {end} are missing; add both")
    before, rest = content.split(begin, 1)
    write_whole(page, f"{before}{begin}{text}\n{end}{rest.split(end, 1)[1]}")


def _world(config: SearchConfig, seed: int) -> World:
    if not config.curves:
        return Synthetic(seed, config.noise)
    curves = read_recording(Path(config.curves)).curves
    untrained = 1.1 * max(value for curve in curves for _, value in curve.points)
    return Recorded(curves, untrained, config.noise)


def main(argv: Sequence[str]) -> int:
    """Command line; 0 measured, 2 user error."""
    return cli.run_program(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    config = cli.parse_args(
        SearchConfig,
        argv,
        program="-m benchmarks.search",
        description=(__doc__ or "").split("\n")[0],
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = f"of recorded curves ({Path(config.curves).name})" if config.curves else "synthetic"
    about = (
        f"{date.today().isoformat()}, `python -m benchmarks.search`: {config.n_trials} trials,"
        f" {config.n_seeds} searches each, landscapes {where}, {config.noise:g} between seeds."
    )
    print(about)
    table = measure(config, STRATEGIES)
    if config.page:
        name = "searches of recorded curves" if config.curves else "searches"
        put_into(Path(config.page), name, f"{about}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
