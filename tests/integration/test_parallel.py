"""Several ranks train the model of one process: torchrun with gloo on the CPU."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pretokenize
import train
from csm_ft.data.token_file import write_store
from csm_ft.export.__main__ import main as export
from csm_ft.runs.checkpoint import save_weights
from tests.conftest import write_metadata
from tests.helpers.dialogues import write_dialogues
from tests.helpers.ranks import (
    ENVIRONMENT,
    ROOT,
    WORDS,
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


@pytest.mark.slow
def test_three_ranks_train_the_model_of_one(folder: Path, run: Run, alone: Path) -> None:
    finish(torchrun(3, run("ddp3"), run("fsdp3", "--parallel", "fsdp")))
    check_same_run(folder / "ddp3", alone)
    check_same_run(folder / "fsdp3", alone)


@pytest.mark.slow
def test_two_ranks_compile_their_shards() -> None:
    script = str(ROOT / "tests/helpers/compiled_shards.py")
    finish([*WORDS, "--standalone", "--nproc-per-node=2", script])


@pytest.mark.slow
def test_adapters_and_averages_on_ranks(folder: Path, run: Run) -> None:
    kinds = {"lora": LORA, "free": ["--optimizer", "schedulefree"], "ema": ["--ema_decay", "0.8"]}
    runs = []
    for name, options in kinds.items():
        assert train.main(run(name, *options)) == 0
        runs += [run(f"{name}-{mode}", *options, "--parallel", mode) for mode in ("ddp", "fsdp")]
    finish(torchrun(2, *runs))
    for name in kinds:
        for mode in ("ddp", "fsdp"):
            ours, theirs = folder / f"{name}-{mode}", folder / name
            assert losses(ours) == pytest.approx(losses(theirs), rel=1e-5)
            assert losses(ours, "val") == pytest.approx(losses(theirs, "val"), rel=1e-5)
    check_same_gradients(folder / "lora-ddp", folder / "lora")
    check_same_gradients(folder / "lora-fsdp", folder / "lora")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--optimizer", "schedulefree"], LORA], ids=str)
def test_any_number_of_ranks_resumes(
    folder: Path, run: Run, tmp_path: Path, options: list[str]
) -> None:
    """One rank takes two steps, two sharded ones two, and three the rest."""
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    assert train.main([*run("-", *options), "--output_dir", whole]) == 0
    for steps, ranks, mode in ((2, 1, "auto"), (4, 2, "fsdp"), (6, 3, "ddp")):
        more = ["--output_dir", cut, "--max_steps", str(steps), "--parallel", mode]
        argv = [*run("-", *options), *more, *(["--extend", "constant"] if steps > 2 else [])]
        if ranks == 1:
            assert train.main(argv) == 0
        else:
            out = finish(torchrun(ranks, argv))
            assert f"resuming from step {steps - 2}" in out
    assert losses(Path(cut)) == pytest.approx(losses(Path(whole)), rel=1e-5)


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialogues")
    for name, count in (("train", 5), ("val", 2)):
        write_dialogues(folder, name, count)
    data = [f"--{name}_data={folder / f'{name}.jsonl'}" for name in ("train", "val")]
    words = ["--family", "moshi", "--codec", "melrvq", "--fit_tokenizer", "320"]
    assert pretokenize.main([*words, *data, "--output", str(folder / "tokens.hdf5")]) == 0
    return folder / "tokens.hdf5"


MOSHI = "--model_dim 32 --model_layers 2 --model_heads 2 --model_depth_dim 16".split()
MOSHI += "--model_depth_layers 1 --model_depth_heads 2 --train_from_scratch".split()
WINDOWS = "--window_sec 4 --min_window_sec 1 --batch_size 4 --learning_rate 1e-3".split()
WINDOWS += "--micro_batch_tokens 120 --max_steps 3 --save_every 1 --keep_last 9".split()
WINDOWS += "--gen_every 3 --gen_prompt_sec 2 --gen_sec 1".split()


@pytest.mark.slow
def test_moshi_on_ranks(dialogues: Path, tmp_path: Path) -> None:
    """Full, and adapters beside embeddings; sharded with recomputed activations; exported."""

    def arguments(name: str, *more: str) -> list[str]:
        paths = ["--data", str(dialogues), "--output_dir", str(tmp_path / name)]
        return [*paths, *COMMON, *WINDOWS, *more]

    assert train.main(arguments("base", *MOSHI)) == 0
    base = ["--model_name_or_checkpoint_path", str(tmp_path / "base")]
    kinds = {
        "full": [*base, "--method", "full"],
        "lora": [*base, *LORA, "--lora_embeddings"],
    }
    modes = {"ddp": [], "fsdp": ["--activation_checkpointing", "full"]}
    runs = []
    for name, options in kinds.items():
        assert train.main(arguments(name, *options)) == 0
        for mode, more in modes.items():
            runs.append(arguments(f"{name}-{mode}", *options, "--parallel", mode, *more))
    finish(torchrun(3, *runs))
    for name in kinds:
        for mode in modes:
            check_same_family_run(tmp_path / f"{name}-{mode}", tmp_path / name)
        assert export([str(tmp_path / f"{name}-fsdp"), "--format", "moshi"]) == 0


def check_same_family_run(ours: Path, theirs: Path) -> None:
    check_same_gradients(ours, theirs, tolerance=1e-5)
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)
    assert losses(ours, "val") == pytest.approx(losses(theirs, "val"), rel=1e-4)
    samples = {path.relative_to(run) for run in (ours, theirs) for path in run.glob("samples/*/*")}
    assert samples
    assert all((run / path).is_file() for run in (ours, theirs) for path in samples)


@pytest.mark.slow
def test_moonshine_on_ranks(tmp_path: Path) -> None:
    """Full and adapters, with word error rates and samples."""
    data = ["--family", "moonshine", "--fit_tokenizer", "300"]
    for split, count in (("train", 10), ("val", 4)):
        metadata = write_metadata(tmp_path / f"{split}.json", split, count)
        data += [f"--{split}_data", str(metadata)]
    assert pretokenize.main([*data, "--output", str(tmp_path / "asr.hdf5")]) == 0
    sizes = "--model_dim 32 --model_ffn_dim 64 --model_heads 2 --model_encoder_layers 1".split()
    sizes += "--model_decoder_layers 1 --train_from_scratch".split()
    options = "--batch_size 4 --learning_rate 1e-3 --max_tokens_per_sec 20 --max_steps 3".split()
    options += "--save_every 1 --keep_last 9 --gen_every 3".split()

    def arguments(name: str, *more: str) -> list[str]:
        paths = ["--data", str(tmp_path / "asr.hdf5"), "--output_dir", str(tmp_path / name)]
        return [*paths, *COMMON, *options, *more]

    assert train.main(arguments("base", *sizes)) == 0
    base = ["--model_name_or_checkpoint_path", str(tmp_path / "base")]
    runs = []
    for name, kind in {"full": base, "lora": [*base, *LORA]}.items():
        assert train.main(arguments(name, *kind)) == 0
        runs += [arguments(f"{name}-{mode}", *kind, "--parallel", mode) for mode in ("ddp", "fsdp")]
    finish(torchrun(2, *runs))
    for name in ("full", "lora"):
        for mode in ("ddp", "fsdp"):
            ours, theirs = tmp_path / f"{name}-{mode}", tmp_path / name
            check_same_family_run(ours, theirs)
            rates = [rows(run, "val")[-1]["val_cer"] for run in (ours, theirs)]
            assert rates[0] == pytest.approx(rates[1], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "asked to stop"])
def test_same_command_continues(folder: Path, run: Run, tmp_path: Path, how: str) -> None:
    options = ["--max_steps", "120", "--val_every", "0", "--save_every", "10", "--keep_last", "99"]
    argv = [*run("-", *options, "--parallel", "fsdp"), "--output_dir", str(tmp_path / "cut")]
    assert train.main([*run("-", *options), "--output_dir", str(tmp_path / "whole")]) == 0
    command = torchrun(2, argv)
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=-1, stderr=-2
    ) as launched:
        wait_for(tmp_path / "cut/checkpoints/step_000020")
        if how == "killed":
            os.kill(ranks_of(launched.pid)[1], signal.SIGKILL)
        else:
            launched.terminate()
        out, _ = launched.communicate(timeout=200)
    assert launched.returncode != 0
    said = "another rank is gone" if how == "killed" else "the same command resumes from here"
    assert said in out
    assert f"resuming from step {last_saved(tmp_path / 'cut')}" in finish(command)
    found, expected = losses(tmp_path / "cut"), losses(tmp_path / "whole")
    assert found == pytest.approx(expected, rel=1e-3)


def wait_for(path: Path) -> None:
    ends = time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < ends, path
        time.sleep(0.05)


def ranks_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(map(int, children))


def last_saved(run: Path) -> int:
    return max(int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*"))


@pytest.mark.slow
def test_two_machines(folder: Path, run: Run, alone: Path) -> None:
    """Two launchers on the loopback, with two ranks each."""
    launch = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-id=test"]
    launch += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"]
    command = torchrun(4, run("machines", "--parallel", "fsdp"), launch=launch)
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=-3, stderr=-3) as other:
        finish(command)
        assert other.wait(timeout=120) == 0
    check_same_run(folder / "machines", alone)
