"""sweep.py's options: its own, and every one of train.py."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from csm_ft.errors import ConfigError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.request import SET_BY_SWEEP, SweepRequest, options_class, parse

ROOT = Path(__file__).resolve().parents[3]


def typed(command: str) -> SweepRequest:
    return parse(command.split())


def test_trials_and_gpus_are_enough() -> None:
    request = typed("--n_trials 50 --n_gpus 2")
    assert (request.sweep.n_trials, request.sweep.n_gpus, request.sweep.output_dir) == (
        50,
        2,
        "./sweep",
    )
    assert request.given == {"family": "csm"}
    assert request.defaults["wandb_project"] == "csm-sweep"


def test_public_trainers_flags_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    request = typed(
        "--data d.hdf5 --output_dir o --model_name_or_checkpoint_path sesame/csm-1b --sweep_config"
        " s.yaml --wandb_project p --study_name s --n_epochs 3 --n_trials 50 --device cuda"
        " --use_amp --n_gpus 2 --trials_per_gpu 2 --val_every 500 --gen_every 0 --save_every 0"
        " --log_every 10 --gen_sentence Bonjour --gen_speaker 999"
    )
    assert request.sweep == SweepConfig(
        output_dir="o",
        sweep_config="s.yaml",
        study_name="s",
        n_trials=50,
        n_gpus=2,
        trials_per_gpu=2,
        wandb_project="p",
        gen_every="0",
        save_every="0",
    )
    assert request.given["gen_sentences"] == ["Bonjour"]
    assert request.given["use_amp"] == "true"
    assert "val_every" not in request.given
    assert "val_every 500 is not used" in capsys.readouterr().out


def test_shared_flag_reaches_both() -> None:
    request = typed("--seed 7")
    assert (request.sweep.seed, request.given["seed"]) == (7, "7")


def test_yaml_of_both_programs(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    path.write_text("n_trials: 9\nlearning_rate: 1e-4\nrungs: 1/4\n")
    request = parse(["--config", str(path), "--n_trials", "3"])
    assert (request.sweep.n_trials, request.sweep.rungs) == (3, ["1/4"])
    assert request.given == {"learning_rate": "1e-4", "family": "csm"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--n_trails 5", "did you mean --n_trials"),
        ("--n_trials 0", "n_trials 0 is below 1"),
        ("--n_trials 2.5", "n_trials"),
        ("--eta 1", "eta 1 is below 2"),
        ("--max_attempts 0", "max_attempts 0 is below 1"),
        ("--startup_trials -1", "startup_trials -1 is below 0"),
        (
            "--n_gpus 0 --trials_per_gpu 0",
            "trials_per_gpu: '0' is not valid: write a whole number from 1 on, or auto",
        ),
        ("--family moshy", "family 'moshy' is not known"),
        ("--rungs 1/3 1/9", "rising shares"),
        ("--rungs 1/3 100%", "rising shares"),
        ("--rungs 100", "is not a share of the run"),
        ("--rungs 1/97 1/2", "larger common part"),
        ("--sampler best", "sampler"),
        ("--cluster auto --n_gpus 2", "drop --n_gpus, --gpus and --trials_per_gpu auto"),
        ("--cluster auto --cluster_resources GPU=1", "write NAME=AMOUNT, as CPU=4"),
        ("--cluster auto --cluster_resources slot", "write NAME=AMOUNT, as CPU=4"),
        ("--cluster_copy", "need --cluster auto or an address"),
    ],
)
def test_mistakes_name_the_rule(argv: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        typed(argv)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("rungs", "share"),
    [
        (["1/9", "1/3"], "1/9"),
        (["1/4", "1/2"], "1/4"),
        (["1/6", "1/4"], "1/12"),
        (["10%"], "1/10"),
        (["2/5"], "1/5"),
    ],
)
def test_validations_meet_every_rung(rungs: list[str], share: str) -> None:
    config = SweepConfig(rungs=rungs)
    assert config.validation_share == Fraction(share)
    assert all(
        (point / config.validation_share).denominator == 1
        for point in (*config.rung_shares, Fraction(1))
    )


def test_empty_study_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="give the study a name"):
        parse(["--study_name", " "])


def test_every_option_has_help() -> None:
    fields = options_class(CsmConfig).model_fields
    assert {"learning_rate", "decoder_loss_weight", "n_trials", *SET_BY_SWEEP} <= set(fields)
    done = subprocess.run(
        [sys.executable, "sweep.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"--{name}" in done.stdout for name in fields)


def test_help_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "optuna", "h5py", "pandas", "plotly", "soundfile", "sklearn"]
    code = f"""
import sys, sweep
try:
    sweep.main(["--help"])
except SystemExit:
    pass
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
