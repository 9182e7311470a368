"""Several ranks train the model of one process: torchrun with gloo on the CPU."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import pretokenize
import train
from csm_ft.data.token_file import write_store
from csm_ft.runs.checkpoint import save_weights
from tests.conftest import write_metadata
from tests.helpers.dialogues import write_dialogues
from tests.helpers.ranks import (
    ENVIRONMENT,
    ROOT,
    check_same_gradients,
    finish,
    free_port,
    losses,
    rows,
    torchrun,
)
from tests.helpers.splits import INFO, SIZE, make_model, make_split

# The last step of an epoch has two clips: of three ranks one has nothing to do.
FRAMES = [12, 5, 30, 1, 17, 9, 22, 3, 14, 8]
COMMON = "--wandb off --device cpu --dtype fp32 --threads 1 --log_every 1 --gen_every 0".split()
COMMON += "--warmup_steps 0 --lr_decay constant --measure_base false".split()
OPTIONS = "--batch_size 4 --depth_fraction 0.25 --learning_rate 1e-3 --max_steps 6".split()
OPTIONS += "--val_every 3 --save_every 1 --keep_last 9 --micro_batch_tokens 60".split()
LORA = "--method lora --lora_rank 4 --lora_dora true".split()
Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    split = make_split(FRAMES)
    (folder / "base").mkdir()
    save_weights(folder / "base", make_model(seed=1), SIZE.to_json())
    write_store(folder / "tokens.hdf5", INFO, {"train": split, "val": split})
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Return the arguments of a run of CSM by its name."""

    def arguments(name: str, *more: str) -> list[str]:
        paths = ["--data", str(folder / "tokens.hdf5"), "--output_dir", str(folder / name)]
        base = ["--model_name_or_checkpoint_path", str(folder / "base")]
        return [*paths, *base, *COMMON, *OPTIONS, *more]

    return arguments


@pytest.fixture(scope="module")
def alone(folder: Path, run: Run) -> Path:
    assert train.main(run("alone")) == 0
    return folder / "alone"


def check_same_run(ours: Path, theirs: Path) -> None:
    check_same_gradients(ours, theirs)
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-5)
    assert losses(ours, "val") == pytest.approx(losses(theirs, "val"), rel=1e-5)
    for name in ("grad_norm", "c0", "depth"):
        found = [row[name] for row in rows(ours)]
        assert found == pytest.approx([row[name] for row in rows(theirs)], rel=1e-4)
    for name in ("best", "step_000006"):
        last, expected = (
            {path.name for path in (run / "checkpoints" / name).iterdir()} for run in (ours, theirs)
        )
        assert last == expected


def test_two_ranks_train_the_model_of_one(folder: Path, run: Run, alone: Path) -> None:
    out = finish(torchrun(2, run("ddp"), run("fsdp", "--parallel", "fsdp")))
    assert "2 ranks: DDP, all weights on each (chosen by default" in out
    assert "2 ranks: FSDP" in out
    assert out.count("step 3/6") == 2, "one rank of each run prints"
    check_same_run(folder / "ddp", alone)
    check_same_run(folder / "fsdp", alone)
    clips = [(folder / name / "checkpoints/best/val_clips.json") for name in ("ddp", "alone")]
    ours, theirs = (json.loads(path.read_text()) for path in clips)
    assert ours.keys() == theirs.keys()


def test_parallel_needs_torchrun(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(run("never", "--parallel", "fsdp")) == 2
    assert "torchrun --nproc-per-node NUMBER_OF_GPUS train.py" in capsys.readouterr().err
