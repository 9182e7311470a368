"""Samplers: the same draws after any restart, and spaces that a sampler cannot search."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import QMCSampler

from csm_ft.errors import ConfigError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.samplers import check_sampler, make_sampler
from csm_ft.sweep.space import Space, make_space
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import DataFacts, plan_study

NUMBERS = """
learning_rate: {type: float, min: 1e-6, max: 1e-2, log: true, default: 1e-3}
batch_size: {type: int, min: 4, max: 32, step: 4, default: 16}
weight_decay: {type: float, min: 0, max: 0.5, step: 0.1}
"""
NESTED = """
method: {type: categorical, values: [full, lora]}
lora_rank: {type: int, min: 8, max: 32, step: 8, when: {method: lora}, default: 8}
lora_dropout: {type: float, min: 0, max: 0.2, step: 0.1, when: {lora_rank: [16, 32]}}
"""
SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random", "grid")
Opener = Callable[..., SweepStudy]


def space_of(tmp_path: Path, text: str, *argv: str) -> Space:
    (tmp_path / "space.yaml").write_text(text)
    return make_space(read_rows(tmp_path / "space.yaml", parse(list(argv))), 100)


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    last: list[SweepStudy] = []

    def open_study(text: str, *argv: str, folder: str = "out") -> SweepStudy:
        while last:
            last.pop().close()
        options = parse(["--n_trials", "99", "--pruner", "none", *argv]).sweep
        plan = plan_study(options, space_of(tmp_path, text, *argv), DataFacts(100, "x"))
        last.append(SweepStudy.open(SweepFolder(tmp_path / folder), plan))
        if last[-1].baseline is None:
            last[-1].set_baseline({"val_loss": 9.0})
        return last[-1]

    yield open_study
    for study in last:
        study.close()


def loss(params: dict[str, Any]) -> float:
    rate = math.log10(params.get("learning_rate", 1e-4) / 1e-4)
    return (
        2 + rate**2 + (params.get("weight_decay", 0) - 0.3) ** 2 + params.get("batch_size", 8) / 99
    )


def run(study: SweepStudy, count: int) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(count):
        number = study.ask()
        drawn.append(study.params(number))
        value = loss(drawn[-1])
        study.validated(number, 500, {"val_loss": value})
        best = {"val_loss": value, "step": 9, "examples": 500, "epoch": 5.0}
        study.finish(number, "completed", best=best, final_value=value)
    return drawn


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_restarts_and_kills_change_no_draw(
    opener: Opener, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        NUMBERS.replace(", log: true, default: 1e-3", ", step: 9.999e-3")
        if sampler == "grid"
        else NUMBERS
    )
    argv = ("--sampler", sampler, "--startup_trials", "5")
    undisturbed = run(opener(text, *argv, folder="other"), 12)
    found = run(opener(text, *argv), 5)
    for _ in range(7):
        study = opener(text, *argv)
        with monkeypatch.context() as patch:
            patch.setattr(Space, "suggest", interrupt)
            with pytest.raises(KeyboardInterrupt):
                study.ask()
        study = opener(text, *argv)
        (number,) = study.running
        found.append(study.params(number))
        value = loss(found[-1])
        best = {"val_loss": value, "step": 9, "examples": 500, "epoch": 5.0}
        study.validated(number, 500, {"val_loss": value})
        study.finish(number, "completed", best=best, final_value=value)
    assert found == undisturbed
    other = run(opener(text, *argv, "--seed", "1", folder="seed"), 12)
    assert other != undisturbed


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_stand_on_their_steps(opener: Opener, sampler: str) -> None:
    text = (
        NUMBERS.replace(", log: true, default: 1e-3", ", step: 9.999e-3")
        if sampler == "grid"
        else NUMBERS
    )
    for params in run(opener(text, "--sampler", sampler, "--startup_trials", "3"), 12):
        assert params["batch_size"] in range(4, 33, 4)
        assert params["weight_decay"] * 10 == pytest.approx(round(params["weight_decay"] * 10))
        assert 1e-6 <= params["learning_rate"] <= 1e-2


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "cmaes"])
def test_nested_conditions_hold_in_every_draw(opener: Opener, sampler: str) -> None:
    study = opener(NESTED, "--sampler", sampler)
    assert study.points.num_settings == 1 + 2 + 2 * 3
    drawn = run(study, study.num_new)
    assert len({str(sorted(params.items())) for params in drawn}) == 9, "each setting once"
    for params in drawn:
        assert ("lora_rank" in params) == (params["method"] == "lora")
        assert ("lora_dropout" in params) == (params.get("lora_rank") in (16, 32))


def test_grid_is_every_setting_in_an_order_of_its_seed(opener: Opener) -> None:
    orders = [
        run(opener(NESTED, "--sampler", "grid", "--seed", str(seed), folder=f"out{seed}"), 9)
        for seed in (0, 1)
    ]
    keys = [[str(sorted(params.items())) for params in drawn] for drawn in orders]
    assert keys[0] != keys[1]
    assert sorted(keys[0]) == sorted(keys[1])


def test_cmaes_finds_what_random_draws_do_not(opener: Opener) -> None:
    by_cmaes = run(opener(NUMBERS, "--sampler", "cmaes", folder="a"), 60)
    by_chance = run(opener(NUMBERS, "--sampler", "random", folder="b"), 60)
    late = [sum(map(loss, drawn[-15:])) / 15 for drawn in (by_cmaes, by_chance)]
    assert late[0] < 2.4 < 2.8 < late[1]


def test_cmaes_state_equals_one_that_was_never_made_anew(opener: Opener, tmp_path: Path) -> None:
    """The same generations told to one object, which lives on."""
    import numpy as np
    from cmaes import CMA

    study = opener(NUMBERS, "--sampler", "cmaes")
    drawn = run(study, 21)
    span = math.log(1e-2) - math.log(1e-6)
    points = [
        [
            (math.log(p["learning_rate"]) - math.log(1e-6)) / span,
            (p["batch_size"] - 4) / 28,
            p["weight_decay"] / 0.5,
        ]
        for p in drawn
    ]
    bounds = np.tile([0.0, 1.0], (3, 1))
    living = CMA(mean=np.array(points[0]), sigma=1 / 6, bounds=bounds, seed=21)
    size = living.population_size
    assert 21 // size == 3
    for first in range(0, 21, size):
        told = list(zip(points[first : first + size], map(loss, drawn[first:]), strict=False))
        living.tell([(np.array(point), value) for point, value in told])
    sampler: Any = make_sampler(study.plan.sweep, study.plan.space, 21)
    again = sampler._replayed(study._study)
    assert again.mean == pytest.approx(living.mean)
    assert again.ask() == pytest.approx(living.ask())


def test_qmc_is_spread_evenly(tmp_path: Path) -> None:
    """Of 16 points of a Sobol sequence, each sixteenth of every range has one."""
    text = "learning_rate: {type: float, min: 1e-6, max: 1e-2, log: true}\n"
    text += "weight_decay: {type: float, min: 0, max: 1}\n"
    space = space_of(tmp_path, text)
    options = parse(["--sampler", "qmc", "--seed", "3"]).sweep
    cells: dict[str, set[int]] = {"learning_rate": set(), "weight_decay": set()}
    for number in range(16):
        study = optuna.create_study(sampler=make_sampler(options, space, number))
        values = space.suggest(study.ask())
        cells["learning_rate"].add(int((math.log10(values["learning_rate"]) + 6) * 4))
        cells["weight_decay"].add(int(values["weight_decay"] * 16))
    assert cells == {name: set(range(16)) for name in cells}
    assert hasattr(QMCSampler, "_find_sample_id"), "the method that ours takes the place of"


@pytest.mark.parametrize(
    ("argv", "text", "words"),
    [
        ("--sampler cmaes", NESTED, "method is categorical"),
        (
            "--sampler cmaes",
            "batch_size: {type: int, min: 4, max: 8, when: {method: full}}\n",
            "batch_size is conditional",
        ),
        ("--sampler grid", NUMBERS, "learning_rate has no finite number of values; give its row a"),
        (
            "--sampler grid",
            "batch_size: {type: int, min: 1, max: 200}\ngrad_acc_steps: {type: int, min: 1, max: 99}",
            "more than 10000 settings",
        ),
    ],
)
def test_spaces_that_do_not_fit(tmp_path: Path, argv: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_sampler(parse(argv.split()).sweep, space_of(tmp_path, text))
    assert words in str(error.value)


def test_samplers_of_full_runs_are_warned_of_pruning(tmp_path: Path) -> None:
    space = space_of(tmp_path, NUMBERS)
    assert "--pruner none" in check_sampler(parse(["--sampler", "gp"]).sweep, space)
    assert not check_sampler(parse(["--sampler", "gp", "--pruner", "none"]).sweep, space)


def test_torch_is_imported_for_gp_only() -> None:
    code = "import sys, csm_ft.sweep.samplers; print({'torch', 'cmaes'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
