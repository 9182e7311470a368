"""A sweep of W&B, as it is on their pages, is understood, or what is not is named."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from csm_ft.errors import ConfigError
from csm_ft.sweep.request import SweepRequest, parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import Space, make_space

SWEEP = """
program: train.py
project: voices
method: bayes
metric: {name: val/val_loss, goal: minimize}
run_cap: 40
early_terminate: {type: hyperband, s: 2, eta: 3, max_iter: 27}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-3}
  batch_size: {values: [8, 16]}
  lora_rank: {min: 8, max: 64}
  weight_decay: {min: 0.0, max: 0.1}
  lora_dropout: {distribution: q_uniform, min: 0, max: 0.2, q: 0.05}
  max_grad_norm: {distribution: log_uniform, min: -1, max: 1}
  method: {value: lora}
"""


def read(tmp_path: Path, text: str, *argv: str) -> tuple[SweepRequest, Space]:
    path = tmp_path / "wandb.yaml"
    path.write_text(text)
    request = parse(["--sweep_config", str(path), *argv])
    return request, make_space(read_rows(path, request), 100)


def test_parameters_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request, space = read(tmp_path, SWEEP)
    found = {p.name: p.distribution for p in space.parameters}
    assert found["max_grad_norm"].low == pytest.approx(0.36788, rel=1e-4)
    assert found["max_grad_norm"].log
    del found["max_grad_norm"]
    assert found == {
        "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "batch_size": CategoricalDistribution([8, 16]),
        "lora_rank": IntDistribution(8, 64),
        "weight_decay": FloatDistribution(0, 0.1),
        "lora_dropout": FloatDistribution(0, 0.2, step=0.05),
    }
    assert (space.base.method, space.base.best_by) == ("lora", "val_loss")
    sweep = request.sweep
    assert (sweep.sampler, sweep.n_trials, sweep.wandb_project) == ("tpe", 40, "voices")
    assert (sweep.pruner, sweep.eta, sweep.rungs) == ("asha", 3, ["1/9", "1/3"])
    assert "program of W&B's sweep: not used here" in capsys.readouterr().out


def test_flags_win_and_without_a_rule_none_is_stopped(tmp_path: Path) -> None:
    text = "method: random\nparameters: {batch_size: {values: [8, 16]}}"
    assert read(tmp_path, text)[0].sweep.pruner == "none"
    sweep = read(tmp_path, text, "--pruner", "median", "--sampler", "qmc")[0].sweep
    assert (sweep.pruner, sweep.sampler) == ("median", "qmc")


ONE = "parameters: {batch_size: {values: [8, 16]}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: evolve\n" + ONE, "method 'evolve': choose among bayes, random, grid"),
        ("metric: {name: wer, goal: maximize}\n" + ONE, "the best is the lowest"),
        ("metric: {name: similarity}\n" + ONE, "write goal: maximize"),
        ("metric: loss\n" + ONE, "write {name: val_loss, goal: minimize}"),
        ("early_terminate: {type: hyperband, min_iter: 3}\n" + ONE, "--pruner asha and --rungs"),
        ("early_terminate: {type: median}\n" + ONE, "only type: hyperband is understood"),
        ("sweep: 3\n" + ONE, "sweep is no key that is understood here"),
        ("parameters: {batch_size: {min: 1}}", "write value, values, or min and max"),
        ("parameters: {batch_size: 8}", "write value, values, or min and max"),
        ("parameters: {lora: {parameters: {rank: {value: 8}}}}", "are not nested"),
        (
            "parameters: {weight_decay: {distribution: normal, mu: 0, sigma: 1}}",
            "distribution 'normal' is not understood here",
        ),
        (
            "parameters: {weight_decay: {distribution: uniform, min: a, max: b}}",
            "needs the numbers min and max",
        ),
        (
            "parameters: {batch_size: {values: [8, 16], probabilities: [0.1, 0.9],"
            " distribution: categorical}}",
            "not understood here (nor probabilities)",
        ),
        ("parameters: {learning_rat: {min: 0.1, max: 0.2}}", "did you mean learning_rate?"),
        ("parameters: {learning_rate: {min: 0.0, max: 0.2}}", "learning_rate 0.0 is not above 0"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert str(tmp_path / "wandb.yaml") in str(error.value)
    assert words in str(error.value)


def test_other_files_are_not_taken_for_one(tmp_path: Path) -> None:
    request, _ = read(tmp_path, "batch_size: {type: categorical, values: [8, 16]}")
    defaults: Any = parse([]).sweep
    assert request.sweep.pruner == defaults.pruner == "asha"
