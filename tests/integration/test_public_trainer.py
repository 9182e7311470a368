"""Users of the public CSM trainer come over with commands, flags, YAML files, metadata.

.env and token files: all of it works unchanged.
"""

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import pretokenize
import sweep
import train
from csm_ft.cli import parse_args
from csm_ft.data.token_file import open_store
from csm_ft.datasets.metadata import read_metadata
from csm_ft.families.csm.config import CsmConfig, CsmPretokenizeConfig
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import make_space
from tests.helpers.hub import environment
from tests.integration.test_readme import make_user_folder

ROOT = Path(__file__).resolve().parents[2]
PRETOKENIZE = (
    "--train_data train/metadata.json --val_data val/metadata.json --output tokenized/data.hdf5"
)
TRAIN = (
    "--data tokenized/data.hdf5 --config ./configs/finetune_param_defaults.yaml --n_epochs 25"
    ' --gen_every 500 --gen_sentence "Marie aime les pommes et les poires."'
)
SWEEP = (
    "--data tokenized/data.hdf5 --sweep_config ./configs/sweep.yaml --output_dir ./my-sweep"
    " --n_epochs 3 --n_trials 3 --n_gpus 2"
)
FINETUNE_YAML = """\
batch_size: 8
grad_acc_steps: 1
learning_rate: 3e-5
max_grad_norm: 1.3
warmup_steps: 1000
weight_decay: 0.002
lr_decay: "linear"
decoder_loss_weight: 0.5
"""
SWEEP_YAML = """\
batch_size:
  type: categorical
  values: [8, 16, 32]
learning_rate:
  type: float
  min: 1e-6
  max: 1e-2
  log: true
lr_decay:
  type: categorical
  values: ["linear", "cosine", "constant", "exponential"]
weight_decay:
  type: float
  min: 1e-3
  max: 1e-1
  log: true
warmup_steps:
  type: int
  min: 0
  max: 1000
max_grad_norm:
  type: float
  min: 0.5
  max: 5.0
grad_acc_steps:
  type: int
  min: 1
  max: 3
decoder_loss_weight:
  type: fixed
  value: 0.5
"""
METADATA = """\
[
  {
    "text": "They had a good time.",
    "path": "../audio/marie.wav",
    "start": 0.5,
    "end": 2.5,
    "speaker": 30,
  },
  {
    "text": "The rest is silence.",
    "path": "../audio/bonjour.flac",
  },
]
"""
ENV = """\
WANDB_API_KEY=
CSM_REPO_PATH=~/csm
MIMI_SAMPLE_RATE=24000
BACKBONE_FLAVOR=llama-1B
DECODER_FLAVOR=llama-100M
TEXT_VOCAB_SIZE=128256
AUDIO_VOCAB_SIZE=2051
AUDIO_NUM_CODEBOOKS=32
"""


def write_tokens(path: Path, *, num_codebooks: int = 32) -> None:
    """Write random clips in the public trainer's layout.

    Every split ends with a record that a crash left empty.
    """
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in (("train", 20), ("val", 3)):
            group = file.create_group(split)
            audio = group.create_dataset("audio", (count + 1,), h5py.vlen_dtype(np.int32))
            text = group.create_dataset("text", (count + 1,), h5py.vlen_dtype(np.int32))
            length = group.create_dataset("length", (count + 1,), np.int32)
            for i in range(count):
                frames, tokens = int(random.integers(5, 20)), int(random.integers(4, 12))
                audio[i] = (
                    random.integers(0, 2048, (num_codebooks, frames)).astype(np.int32).flatten()
                )
                text[i] = random.integers(0, 128_256, tokens).astype(np.int32)
                length[i] = frames + tokens + 1


@pytest.fixture
def folder(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of such a user, made the working one."""
    for name in ("configs", "tokenized", "train", "val"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs/finetune_param_defaults.yaml").write_text(FINETUNE_YAML)
    (tmp_path / "configs/sweep.yaml").write_text(SWEEP_YAML)
    for split in ("train", "val"):
        (tmp_path / split / "metadata.json").write_text(METADATA)
    write_tokens(tmp_path / "tokenized/data.hdf5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return tmp_path


def test_metadata_example_is_read(folder: Path) -> None:
    rows, rejections = read_metadata(folder / "train/metadata.json")
    assert not rejections
    assert [(row.start_sec, row.end_sec, row.speaker) for row in rows] == [
        (0.5, 2.5, "30"),
        (None, None, None),
    ]


def test_its_pretokenize_command_works(folder: Path) -> None:
    make_user_folder(folder)
    assert pretokenize.main(shlex.split(PRETOKENIZE.replace("tokenized/", "fresh/"))) == 0
    store = open_store(folder / "fresh/data.hdf5")
    assert [store.splits["train"].clip(i).speaker for i in range(2)] == ["30", "999"]
    assert store.splits["train"].lengths("codes")[0] == 25  # 2 s
    assert (store.info.facts["num_codebooks"], store.info.facts["template"]) == (
        32,
        "[{speaker}]{text}",
    )


@pytest.mark.slow
def test_train_with_yaml_env_and_tokens(folder: Path, hub_cache: Path) -> None:
    """As typed, in a process of its own, as .env is put into the environment."""
    (folder / ".env").write_text(ENV)
    command = [sys.executable, str(ROOT / "train.py"), *shlex.split(TRAIN)]
    done = subprocess.run(
        command,
        env=os.environ | environment(hub_cache),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 clips to train on, 3 clips to validate" in done.stdout
    assert "75 optimiser steps" in done.stdout
    assert "warming up for 37" in done.stdout, "1000 steps of warm-up do not fit"
    assert "records are empty" in done.stderr
    (run,) = (folder / "exp").iterdir()
    (facts,) = (path.read_text() for path in run.glob("samples/*/step_000075.json"))
    assert "Marie aime les pommes et les poires." in facts
    assert '"speaker": "999"' in facts
    assert yaml.safe_load((run / "config.yaml").read_text())["learning_rate"] == 3e-5


@pytest.mark.slow
def test_env_names_fewer_codebooks(folder: Path) -> None:
    write_tokens(folder / "tokenized/eight.hdf5", num_codebooks=8)
    (folder / ".env").write_text(
        ENV.replace("CODEBOOKS=32", "CODEBOOKS=8")
        .replace("llama-1B", "tiny")
        .replace("llama-100M", "tiny")
    )
    more = (
        "--data tokenized/eight.hdf5 --train_from_scratch --max_steps 1 --gen_every 0 --wandb off"
        " --output_dir exp/eight"
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *more.split()],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "csm from random weights" in done.stdout
    (checkpoint,) = (folder / "exp/eight/checkpoints").glob("step_*")
    config = yaml.safe_load((checkpoint / "config.json").read_text())
    assert config["audio_num_codebooks"] == 8


def test_partial_loading_gives_same_run(folder: Path) -> None:
    losses = []
    for name, more in (("memory", ""), ("mapped", "--partial_data_loading")):
        argv = (
            "--data tokenized/data.hdf5 --max_steps 3 --log_every 1 --gen_every 0 --wandb off"
            f" --output_dir exp/{name} {more}"
        )
        assert train.main(argv.split()) == 0
        rows = [
            yaml.safe_load(line)
            for line in (folder / f"exp/{name}/metrics.jsonl").read_text().splitlines()
        ]
        losses.append([row.get("loss", row.get("val_loss")) for row in rows])
    assert losses[0] == losses[1]


def test_every_flag_is_understood(folder: Path) -> None:
    shared = (
        "--model_name_or_checkpoint_path sesame/csm-1b --wandb_project p --log_every 10 --val_every"
        " 100 --save_every 0 --gen_every 0"
    )
    shared += " --gen_speaker 999 --n_epochs 5 --data ./data/tokens.hdf5"
    mine = "--wandb_name n --output_dir ./exp --gen_sentences one"
    for bare in (
        "--train_from_scratch --partial_data_loading --wandb_reinit --use_amp",
        "--wandb_reinit false --use_amp False",
    ):
        config = parse_args(
            CsmConfig, f"{shared} {mine} {bare}".split(), program="", description=""
        )
        assert config.dtype == ("bf16" if bare.endswith("--use_amp") else "fp32")
        assert config.train_from_scratch is bare.startswith("--train_from")
        own = (
            "--output_dir ./sweep --sweep_config s --study_name csm-sweep --n_trials 20 --device"
            " cuda --n_gpus 1 --trials_per_gpu 1"
        )
        request = parse(f"{shared} {own} {bare} --gen_sentence one".split())
        assert request.sweep.n_trials == 20
    data = parse_args(
        CsmPretokenizeConfig,
        f"{PRETOKENIZE} --device cuda --save_every 100 --omit_speaker_id".split(),
        program="",
        description="",
    )
    assert data.omit_speaker_id is True


def test_its_sweep_space_is_read(folder: Path) -> None:
    """Numbers written 1e-6 are strings in YAML 1.1."""
    space = make_space(read_rows(folder / "configs/sweep.yaml", parse(shlex.split(SWEEP))), 20)
    searched = {parameter.name: parameter.distribution for parameter in space.parameters}
    assert (
        searched["learning_rate"].low,
        searched["learning_rate"].high,
        searched["learning_rate"].log,
    ) == (1e-6, 1e-2, True)  # pyright: ignore
    assert set(searched) == set(yaml.safe_load(SWEEP_YAML)) - {"decoder_loss_weight"}
    assert space.base.decoder_loss_weight == 0.5


@pytest.mark.slow
def test_its_sweep_command_works(folder: Path) -> None:
    assert sweep.main(shlex.split(f"{SWEEP} --partial_data_loading --device cpu")) == 0
    with (folder / "my-sweep/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row.get("state") != "baseline"]) >= 3
    best = yaml.safe_load((folder / "my-sweep/best.yaml").read_text())
    assert best["partial_data_loading"] is True
    assert best["decoder_loss_weight"] == 0.5
    assert (folder / "my-sweep/report.html").is_file()
