"""train.py as a user runs it: trains, resumes exactly, says what is wrong, speaks."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file

import train
from csm_ft.cli import parse_args
from csm_ft.errors import OutOfMemoryError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.model import Batch
from csm_ft.runs.metrics import CLOCKS
from csm_ft.sweep.messages import Doing
from tests.helpers.killed import wait_until_it_tells

ROOT = Path(__file__).resolve().parents[2]
TINY = """
    --train_from_scratch --backbone_dim 32 --backbone_ffn_dim 48 --backbone_layers 2 --backbone_heads 4 --backbone_kv_heads 2
    --decoder tiny --decoder_dim 16 --decoder_ffn_dim 24 --decoder_layers 1 --decoder_heads 2 --decoder_kv_heads 1
    --learning_rate 3e-3 --threads 1 --wandb off
""".split()


def rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without clocks and rates."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in CLOCKS}
        for row in found
        if kind in (None, row["kind"])
    ]


def options(tokens: Path, run: Path, *more: str) -> list[str]:
    return ["--data", str(tokens), "--output_dir", str(run), *TINY, *more]


def config_of(argv: list[str]) -> CsmConfig:
    return parse_args(CsmConfig, argv, program="train.py", description="")


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = max((run / "checkpoints").glob("step_*"))
    return load_file(last / "model.safetensors")


def test_a_run_leaves_what_is_promised(tokens: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = "--n_epochs 3 --gen_every 1/2 --gen_max_sec 1 --val_every 1ep --log_every 2"
    more += " --val_depth_fraction 0.1"
    argv = options(tokens, run, *more.split())
    assert train.main(argv) == 0
    assert [r["step"] for r in rows(run, "val")] == [0, 3, 6, 9]
    assert [r["step"] for r in rows(run, "train")] == [2, 4, 6, 8, 9]
    val = [r["val_loss"] for r in rows(run, "val")]
    assert val[-1] < val[0] - 0.1, "it learns"
    assert {r["step"] for r in rows(run, "sample")} == {0, 5, 9}
    assert (run / "checkpoints/best/model.safetensors").is_file()
    assert [p.name for p in sorted((run / "checkpoints").glob("step_*"))] == ["step_000009"]
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert "auto" not in {
        resolved[k]
        for k in ("device", "dtype", "output_dir", "model_name_or_checkpoint_path", "wandb")
    } - {"auto"}
    assert (resolved["device"], resolved["dtype"], resolved["threads"]) == (
        "cuda" if torch.cuda.is_available() else "cpu",
        "fp32",
        1,
    )
    prompts = [p for p in (run / "samples").iterdir() if p.name != "reference"]
    assert len(prompts) == 2
    for wav in [*(run / "samples").rglob("*.wav")]:
        facts = json.loads(wav.with_suffix(".json").read_text())
        samples, rate = soundfile.read(wav)
        assert rate == 16000
        assert len(samples) > 0
        assert facts["text"]
    best = json.loads((run / "checkpoints/best/val_clips.json").read_text())
    nats, frames = (sum(values) for values in zip(*best.values(), strict=True))
    (measured,) = rows(run, "best")
    assert nats / frames == pytest.approx(measured["val_loss"], rel=1e-6)
    assert measured["val_loss_estimate"] == min(val[1:])
    assert train.main(argv) == 0, "the same command on a finished run changes nothing"
    assert [r["step"] for r in rows(run, "val")] == [0, 3, 6, 9]
    assert rows(run, "best") == [measured]


class Killed(BaseException):
    pass


class Killer:
    """Kills right after an optimiser step, in the middle of everything."""

    def __init__(self, step: int) -> None:
        self.step = step

    def alive(self, doing: Doing | None = None) -> None: ...

    def progress(self, step: int, examples: int) -> None:
        if step == self.step:
            raise Killed

    def validated(self, examples: int, metrics: object) -> bool:
        return True


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--partial_data_loading"],
        ["--grad_acc_steps", "2", "--micro_batch_tokens", "200"],
        ["--batch_tokens", "300"],
    ],
)
def test_resuming_is_exact(tokens: Path, tmp_path: Path, more: list[str]) -> None:
    """A run that is interrupted every few steps tells and weighs the same as one that is not."""
    base = [
        "--max_steps",
        "8",
        "--save_every",
        "3",
        "--log_every",
        "2",
        "--val_every",
        "4",
        "--gen_every",
        "0",
        *more,
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main(options(tokens, whole, *base)) == 0
    config = config_of(options(tokens, parts, *base))

    for step in (2, 5, 7):
        with pytest.raises(Killed):
            train.run(config, Killer(step))
        with (parts / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "torn')
    assert train.run(config).status == "completed"
    assert rows(parts) == rows(whole)
    a, b = weights(whole), weights(parts)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_losses_ignore_how_data_is_cut(tokens: Path, tmp_path: Path) -> None:
    def losses(name: str, *more: str) -> list[float]:
        base = "--max_steps 4 --log_every 1 --val_every 2 --gen_every 0 --save_every 0".split()
        assert train.main(options(tokens, tmp_path / name, *base, *more)) == 0
        return [r.get("loss", r.get("val_loss")) for r in rows(tmp_path / name)]

    whole = losses("memory")
    assert losses("mapped", "--partial_data_loading") == whole
    np.testing.assert_allclose(losses("micro", "--micro_batch_tokens", "100"), whole, rtol=1e-4)


def test_accumulation_equals_the_large_batch(tokens: Path, tmp_path: Path) -> None:
    """24 clips as 1 x 24 or 3 x 8 or 24 x 1: the same first update."""

    def after_one(name: str, batch_size: int, grad_acc_steps: int) -> dict[str, torch.Tensor]:
        base = [
            "--max_steps",
            "1",
            "--batch_size",
            str(batch_size),
            "--grad_acc_steps",
            str(grad_acc_steps),
            "--val_every",
            "0",
            "--gen_every",
            "0",
        ]
        assert (
            train.main(
                options(
                    tokens, tmp_path / name, *base, "--measure_base", "false", "--adam_eps", "1e-3"
                )
            )
            == 0
        )
        return weights(tmp_path / name)

    whole = after_one("1x24", 24, 1)
    for name, cut in {"3x8": after_one("3x8", 8, 3), "24x1": after_one("24x1", 1, 24)}.items():
        for key, value in whole.items():
            torch.testing.assert_close(cut[key], value, rtol=0, atol=1e-6, msg=f"{name}: {key}")


@pytest.mark.slow
def test_kill_9_at_random_moments(tokens: Path, tmp_path: Path) -> None:
    base = (
        "--max_steps 60 --save_every 4 --log_every 3 --val_every 10 --gen_every 20 "
        "--gen_max_sec 0.5"
    ).split()
    whole, chaos = tmp_path / "whole", tmp_path / "chaos"
    assert train.main(options(tokens, whole, *base)) == 0
    command = [sys.executable, str(ROOT / "train.py"), *options(tokens, chaos, *base)]
    moments = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_until_it_tells(process, chaos / "metrics.jsonl", moments.randint(1, 9))
        time.sleep(moments.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was still at work"
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=120).returncode == 0
    assert rows(chaos) == rows(whole)
    a, b = weights(whole), weights(chaos)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_main_restores_signals_and_denormals(tokens: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert (
        train.main(options(tokens, tmp_path / "run", "--max_steps", "1", "--gen_every", "0")) == 0
    )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert float(torch.tensor(1e-40) * 1.0) > 0, "numbers below 1e-38 are numbers again"


def test_ctrl_c_saves_and_says_how(tokens: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *options(tokens, run, "--max_steps", "5000", "--gen_every", "0", "--save_every", "0"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not rows(run, "train") if (run / "metrics.jsonl").exists() else True:
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "the same command resumes from here" in output
    assert list((run / "checkpoints").glob("step_*"))


def test_divergence_stops_before_the_update(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        "--learning_rate 1e30 --max_grad_norm 0 --max_steps 20 --gen_every 0 "
        "--val_every 0 --save_every 1"
    ).split()
    assert train.main(options(tokens, tmp_path / "run", *more)) == 3
    assert "is not finite" in capsys.readouterr().err
    assert all(torch.isfinite(t).all() for t in weights(tmp_path / "run").values()), (
        "the saved weights are those before the update"
    )


def test_signs_of_life_within_validations_and_samples(tokens: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    class Watcher:
        def alive(self, doing: Doing | None = None) -> None:
            seen.append(doing or "alive")

        def progress(self, step: int, examples: int) -> None:
            seen.append("step")

        def validated(self, examples: int, metrics: dict[str, float]) -> bool:
            return True

    more = "--max_steps 2 --val_every 2 --save_every 2 --gen_every 2 --gen_max_sec 1"
    more += " --val_depth_fraction 0.1"  # so that the best weights are measured on all at the end
    argv = options(tokens, tmp_path / "run", *more.split(), "--measure_base", "false")
    train.run(config_of(argv), Watcher())
    parts = [(name, len(list(same))) for name, same in itertools.groupby(seen)]
    names = [name for name, _ in parts if name != "alive"]
    assert names == ["step", "step", "validation", "saving", "samples", "saving", "validation"]
    signs = {before: count for (before, _), (_, count) in itertools.pairwise(parts)}
    assert signs["validation"] >= 1
    assert signs["samples"] >= 10, "within the samples, not only around them"
    assert not torch.nn.modules.module._global_forward_hooks


def test_out_of_memory_resumes_with_smaller_micro_batches(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are those of a run that never lacked memory."""
    more = "--max_steps 4 --batch_size 4 --save_every 1 --gen_every 0 --log_every 1".split()
    train.run(config_of(options(tokens, tmp_path / "whole", *more)))
    forward, sizes = CsmModel.forward, list[int]()

    def limited(self: CsmModel, batch: Batch) -> Any:
        if self.training:
            sizes.append(batch.num_padded)
            if len(sizes) > 2 and batch.num_padded > 200:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, batch)

    monkeypatch.setattr(CsmModel, "forward", limited)
    argv = options(tokens, tmp_path / "run", *more)
    with pytest.raises(
        OutOfMemoryError, match=r"step 3: out of memory with a micro-batch of 4 x"
    ) as raised:
        train.run(config_of(argv))
    positions = raised.value.positions
    assert positions == sizes[-1]
    assert f"use --micro_batch_tokens {positions // 2}: the gradient is the same" in str(
        raised.value
    )
    train.run(config_of([*argv, "--micro_batch_tokens", str(positions // 2)]))
    losses = [[row["loss"] for row in rows(tmp_path / run, "train")] for run in ("run", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_sizes_are_known_before_training(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argv = options(tokens, tmp_path / "run", "--max_steps", "1", "--gen_every", "0")
    sizes = train.measure_sizes(config_of(argv))
    assert not (tmp_path / "run").exists()
    train.run(config_of(argv))
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["sizes"] == asdict(sizes)
    saved = tmp_path / "run" / "checkpoints" / "step_000001"
    for name, size in (("model", sizes.weights_bytes), ("optimizer", sizes.optimizer_bytes)):
        assert size < (saved / f"{name}.safetensors").stat().st_size < size + 50_000


def test_the_reporter_can_end_a_run(tokens: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    class Stop:
        def alive(self, doing: Doing | None = None) -> None: ...

        def progress(self, step: int, examples: int) -> None: ...

        def validated(self, examples: int, metrics: dict[str, float]) -> bool:
            seen.append(examples)
            return examples < 16

    more = "--val_every 1 --gen_every 0 --measure_base false"
    config = config_of(options(tokens, tmp_path / "run", *more.split()))
    result = train.run(config, Stop())
    assert (result.status, result.examples, seen) == ("stopped", 16, [8, 16])
    again = train.run(config, Stop())
    assert (again.status, again.examples, again.best) == (
        result.status,
        result.examples,
        result.best,
    ), "a stopped run stays stopped"


def test_a_second_trial_equals_a_fresh_one(tokens: Path, tmp_path: Path) -> None:
    def trial(name: str, rate: str) -> list[dict[str, Any]]:
        more = [
            "--learning_rate",
            rate,
            "--max_steps",
            "4",
            "--gen_max_sec",
            "0.5",
            "--gen_every",
            "2",
            "--log_every",
            "1",
        ]
        assert train.main(options(tokens, tmp_path / name, *more)) == 0
        return rows(tmp_path / name)

    trial("a", "1e-2")
    warm = trial("b", "1e-3")
    fresh = tmp_path / "fresh"
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *options(tokens, fresh, "--learning_rate", "1e-3", "--max_steps", "4"),
    ]
    subprocess.run(
        [*command, "--gen_max_sec", "0.5", "--gen_every", "2", "--log_every", "1"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert rows(fresh) == warm


def test_another_training_is_refused_with_differences(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--max_steps", "1", "--gen_every", "0"]
    assert train.main(options(tokens, tmp_path / "run", *base)) == 0
    assert train.main(options(tokens, tmp_path / "run", *base, "--batch_size", "4")) == 2
    message = capsys.readouterr().err
    assert "batch_size: 8 there, 4 now" in message
    assert "--resume false" in message
    assert (
        train.main(
            options(tokens, tmp_path / "run", *base, "--batch_size", "4", "--resume", "false")
        )
        == 0
    )
    assert (tmp_path / "run.before-1" / "metrics.jsonl").is_file(), "nothing is lost"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "nowhere.hdf5"], "python pretokenize.py --train_data"),
        (["--model_name_or_checkpoint_path", "./nothing"], "no such file or folder"),
        (["--model_name_or_checkpoint_path", "nobody/nothing"], "hub cannot be reached"),
        (["--train_from_scratch", "--backbone_heads", "5"], "dim 192 must be heads 5 times"),
        (["--device", "cuda:7"], "sees no GPU"),
        (["--gen_speaker"], "expected one argument"),
    ],
)
def test_mistakes_end_with_a_message(
    tokens: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    hub: Path,
    argv: list[str],
    message: str,
) -> None:
    try:
        code = train.main(
            ["--data", str(tokens), "--output_dir", str(tmp_path / "run"), "--wandb", "off", *argv]
        )
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_weights_come_from_run_or_file(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--max_steps", "2", "--gen_every", "0", "--val_every", "1"]
    assert train.main(options(tokens, tmp_path / "first", *base)) == 0
    value = rows(tmp_path / "first", "val")[-1]["val_loss"]
    best = tmp_path / "first/checkpoints/best"
    for number, source in enumerate((tmp_path / "first", best, best / "model.safetensors")):
        run = tmp_path / f"next{number}"
        argv = [
            "--data",
            str(tokens),
            "--output_dir",
            str(run),
            "--model_name_or_checkpoint_path",
            str(source),
            "--wandb",
            "off",
            "--threads",
            "1",
        ]
        assert train.main([*argv, *base]) == 0
        assert rows(run, "val")[0]["val_loss"] == pytest.approx(value, rel=1e-5)
    tensors = load_file(best / "model.safetensors")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((best / "config.json").read_text())
    save_file(
        {k: v for k, v in tensors.items() if k != "audio_head"} | {"surprise": torch.zeros(1)},
        broken / "model.safetensors",
    )
    argv = [
        "--data",
        str(tokens),
        "--output_dir",
        str(tmp_path / "x"),
        "--model_name_or_checkpoint_path",
        str(broken),
        "--wandb",
        "off",
    ]
    assert train.main(argv) == 2
    assert (
        "1 tensors missing (e.g. ['audio_head']), 1 unknown (e.g. ['surprise'])"
        in capsys.readouterr().err
    )


def test_bf16_trains_and_speaks(tokens: Path, tmp_path: Path) -> None:
    """Autocast changes the arithmetic, not the weights; the caches of generation fit."""
    base = "--max_steps 3 --val_every 0 --log_every 1 --gen_max_sec 0.5 --save_every 0".split()
    assert train.main(options(tokens, tmp_path / "bf16", *base, "--dtype", "bf16")) == 0
    assert train.main(options(tokens, tmp_path / "fp32", *base)) == 0
    half, full = ([r["loss"] for r in rows(tmp_path / name, "train")] for name in ("bf16", "fp32"))
    assert half != full, "bf16 was not used"
    np.testing.assert_allclose(half, full, rtol=0.02)
    assert {t.dtype for t in weights(tmp_path / "bf16").values()} == {torch.float32}
    assert {r["step"] for r in rows(tmp_path / "bf16", "sample")} == {0, 3}
    first = rows(tmp_path / "bf16", "val")[0]["val_loss"]
    assert first == rows(tmp_path / "fp32", "val")[0]["val_loss"], (
        "the yardstick is fp32 whatever the training is"
    )


def test_the_embedded_base_is_the_default(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = [
        "--data",
        str(tokens),
        "--output_dir",
        str(run),
        "--max_steps",
        "1",
        "--gen_every",
        "0",
        "--wandb",
        "off",
        "--threads",
        "1",
    ]
    assert train.main(argv) == 0
    assert "demo/base" in capsys.readouterr().out
    val = [r["val_loss"] for r in rows(run, "val")]
    assert 8 < val[0] < 20, "it has never heard this voice"
    assert len((run / "config.yaml").read_text().splitlines()) > 40


def test_packed_micro_batches_train_the_same(tokens: Path, tmp_path: Path) -> None:
    """One after another, or padded: the same losses of every step and validation."""
    short = "--max_steps 6 --log_every 1 --val_every 3 --gen_every 0 --batch_size 6".split()
    logged = {}
    for packing in ("on", "off"):
        run = tmp_path / packing
        assert train.main(options(tokens, run, *short, "--packing", packing)) == 0
        logged[packing] = rows(run)
    for kind, name in (("train", "loss"), ("val", "val_loss")):
        ours, theirs = (
            [row[name] for row in found if row["kind"] == kind] for found in logged.values()
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
    padding = {
        packing: [row["padding_share"] for row in found if row["kind"] == "train"]
        for packing, found in logged.items()
    }
    assert max(padding["on"]) == 0 < min(padding["off"])
