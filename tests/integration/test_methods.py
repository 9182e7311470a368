"""Other methods than full training: what is trained, what is left alone, and a sweep over them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from safetensors.torch import load_file

import sweep
import train
from csm_ft.families import lora
from csm_ft.families.csm.weights import load_model
from csm_ft.runs.checkpoint import save_weights
from tests.integration.test_train import ROOT, Killed, Killer, config_of, rows

BASE = ROOT / "demo/base"
LORA = ["--method", "lora", "--lora_rank", "4", "--lora_dropout", "0.2", "--learning_rate", "3e-3"]
SHORT = (
    "--max_steps 6 --log_every 1 --val_every 3 --gen_every 0 --save_every 2 --batch_size 4"
    " --threads 1 --wandb off --device cpu".split()
)


def options(tokens: Path, run: Path, *more: str) -> list[str]:
    return ["--data", str(tokens), "--output_dir", str(run), *SHORT, *more]


def val(run: Path) -> list[float]:
    return [row["val_loss"] for row in rows(run, "val")]


def test_lora_leaves_adapters_and_resumes_exactly(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main(options(tokens, whole, *LORA)) == 0
    assert "method lora trains" in capsys.readouterr().out
    assert val(whole)[-1] < val(whole)[0] - 0.01, "it learns"
    best = whole / "checkpoints/best"
    assert {p.name for p in best.iterdir()} == {
        lora.WEIGHTS,
        lora.CONFIG,
        "config.json",
        "state.json",
        "val_clips.json",
    }
    assert (best / lora.WEIGHTS).stat().st_size < (BASE / "model.safetensors").stat().st_size / 3
    config = config_of(options(tokens, parts, *LORA))

    for step in (1, 3, 5):
        with pytest.raises(Killed):
            train.run(config, Killer(step))
    assert train.run(config).status == "completed"
    assert rows(parts) == rows(whole), "dropout included"
    for name in (lora.WEIGHTS, "optimizer.safetensors"):
        a, b = (load_file(run / "checkpoints/step_000006" / name) for run in (whole, parts))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_starts_from_merged_adapters(tokens: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main(options(tokens, first, *LORA)) == 0
    assert (
        train.main(
            options(
                tokens, second, "--model_name_or_checkpoint_path", str(first), "--max_steps", "1"
            )
        )
        == 0
    )
    assert val(second)[0] == pytest.approx(min(val(first)[1:]), abs=1e-4)
    assert (second / "checkpoints/best/model.safetensors").is_file()


def test_another_base_under_lora_is_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in BASE.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    run = options(tokens, tmp_path / "run", *LORA, "--model_name_or_checkpoint_path", str(base))
    assert train.main([*run, "--max_steps", "2"]) == 0
    other = load_model(str(BASE))
    with torch.no_grad():
        other.projection.weight.add_(1.0)
    save_weights(base, other, other.size.to_json())
    capsys.readouterr()
    assert train.main([*run, "--max_steps", "2"]) == 2
    assert "trained on other base weights" in capsys.readouterr().err


def test_lora_options_without_lora_are_told(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train.main(options(tokens, tmp_path / "run", "--max_steps", "1", "--lora_rank", "8")) == 0
    )
    assert "lora_rank: not used, as method is full; add --method lora" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("more", "trained"),
    [
        (["--method", "depth_only"], {"decoder", "projection", "audio_head"}),
        (["--method", "backbone_only"], {"backbone", "codebook0_head"}),
        (["--method", "embeddings_only"], {"text_embeddings", "audio_embeddings"}),
        (["--method", "heads_only"], {"codebook0_head", "audio_head"}),
        (
            ["--embeddings_lr_factor", "0", "--backbone_lr_factor", "0"],
            {"decoder", "projection", "codebook0_head", "audio_head"},
        ),
    ],
)
def test_what_is_frozen_keeps_every_bit(
    tokens: Path, tmp_path: Path, more: list[str], trained: set[str]
) -> None:
    run = tmp_path / "run"
    assert (
        train.main(options(tokens, run, "--max_steps", "2", "--learning_rate", "1e-3", *more)) == 0
    )
    before, after = (
        load_file(BASE / "model.safetensors"),
        load_file(run / "checkpoints/step_000002/model.safetensors"),
    )
    changed = {
        name.split(".")[0] for name in before if not torch.equal(before[name].float(), after[name])
    }
    assert changed == trained
    first, last = (next(r for r in rows(run, "val") if r["step"] == step) for step in (0, 2))
    assert (first["val_c0"] == last["val_c0"]) == ("depth_only" in more)


def test_each_part_has_its_own_rate(tokens: Path, tmp_path: Path) -> None:
    """Adam's first step is as long as the learning rate, so that changes show the factors."""
    more = (
        "--learning_rate 1e-3 --warmup_steps 0 --weight_decay 0 --max_steps 1 --lr_decay constant"
    ).split()
    factors = {"backbone": 0.5, "decoder": 2.0, "embeddings": 0.25, "heads": 4.0}
    flags = [
        word for name, factor in factors.items() for word in (f"--{name}_lr_factor", str(factor))
    ]
    assert train.main(options(tokens, tmp_path / "run", *more, *flags)) == 0
    before, after = (
        load_file(BASE / "model.safetensors"),
        load_file(tmp_path / "run/checkpoints/step_000001/model.safetensors"),
    )
    tensors = {
        "backbone": "backbone.layers.0.mlp.w1.weight",
        "embeddings": "audio_embeddings.weight",
        "heads": "audio_head",
    }
    tensors["decoder"] = "projection.weight"
    for part, name in tensors.items():
        assert (after[name] - before[name].float()).abs().max().item() == pytest.approx(
            1e-3 * factors[part], rel=0.01
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--method", "lora", "--lora_targets", "attn"],
            "lora_targets: 'attn' is none of attention, mlp",
        ),
        (
            ["--method", "depth_only", "--decoder_loss_weight", "0"],
            "decoder_loss_weight 0 gives it no loss",
        ),
        (["--method", "heads_only", "--heads_lr_factor", "0"], "nothing is left to train"),
        (["--method", "LoRA"], "'LoRA' is not valid"),
        (["--decoder_lr_factor", "-1"], "decoder_lr_factor -1 is below 0"),
        (["--gen_prompts", "./no-prompts.json"], "no-prompts.json: No such file"),
        (["--model_name_or_checkpoint_path", "./nowhere"], "no such file or folder"),
        (["--loss_turns", "speaker:nobody"], "no train clip is by this speaker; there are"),
    ],
)
def test_mistakes_leave_no_run(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert train.main(options(tokens, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_mistake_keeps_a_good_run(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = options(tokens, tmp_path / "run", "--max_steps", "1")
    assert train.main(run) == 0
    assert train.main([*run, "--resume", "false", "--loss_turns", "speaker:nobody"]) == 2
    assert "by this speaker" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_too_long_sentence_leaves_no_run(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--gen_every", "1", "--gen_sentences", "word " * 3000]
    assert train.main(options(tokens, tmp_path / "run", *more)) == 2
    assert "which is too much" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_sweep_over_methods(tokens: Path, tmp_path: Path) -> None:
    """The committed space: each method gets trials, and the best can be trained again."""
    out = tmp_path / "sweep"
    space = yaml.safe_load((ROOT / "configs/sweep_methods.yaml").read_text())
    space["batch_size"] = {"type": "fixed", "value": 4}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    argv = [
        "--data",
        str(tokens),
        "--sweep_config",
        str(tmp_path / "space.yaml"),
        "--output_dir",
        str(out),
        "--n_trials",
        "8",
    ]
    argv += (
        "--n_epochs 1 --gen_every 0 --device cpu --pruner none --wandb off --threads 1 --sampler"
        " random".split()
    )
    assert sweep.main(argv) == 0
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert [t["state"] for t in summary["trials"]] == ["completed"] * 8
    methods = {
        yaml.safe_load((out / f"trials/{i:04d}/config.yaml").read_text())["method"]
        for i in range(8)
    }
    assert methods >= {"full", "lora", "depth_only"}
    assert load_model(str(out / "best")) is not None
    best = min(t["value"] for t in summary["trials"])
    assert (
        train.main(["--config", str(out / "best.yaml"), "--output_dir", str(tmp_path / "again")])
        == 0
    )
    assert min(val(tmp_path / "again")) == best


def test_text_embeddings_that_are_not_read_need_no_state(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same training as of all; a run of an earlier version, which trained all, does so on."""
    used, whole = tmp_path / "used", tmp_path / "whole"
    assert train.main(options(tokens, used)) == 0
    said = re.search(r"text_embeddings: ([\d,]+) of ([\d,]+) are", capsys.readouterr().out)
    assert said
    num_used, num_all = (int(number.replace(",", "")) for number in said.groups())
    assert num_used < num_all / 2
    with pytest.raises(Killed):
        train.run(config_of(options(tokens, whole, "--text_embeddings", "all")), Killer(5))
    config = whole / "config.yaml"
    kept = [line for line in config.read_text().splitlines() if "text_embeddings" not in line]
    config.write_text("\n".join(kept) + "\n")
    assert train.run(config_of(options(tokens, whole))).status == "completed"
    assert "text_embeddings all, not used" in " ".join(capsys.readouterr().out.split())
    assert val(whole) == pytest.approx(val(used), rel=1e-5)
    files = [run / "checkpoints/step_000006" for run in (used, whole)]
    states = [load_file(folder / "optimizer.safetensors") for folder in files]
    assert len(states[0]["text_embeddings.rows.exp_avg"]) == num_used
    assert len(states[1]["text_embeddings.weight.exp_avg"]) == num_all
    base = load_file(BASE / "model.safetensors")
    for folder in files:
        saved = load_file(folder / "model.safetensors")
        assert {name: t.shape for name, t in saved.items()} == {n: t.shape for n, t in base.items()}
        moved = (saved["text_embeddings.weight"] != base["text_embeddings.weight"]).any(1)
        assert 0 < moved.sum() <= num_used


def test_replayed_text_is_trained_too(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens that are only in what is replayed have trained embeddings."""
    argv = options(tokens, tmp_path / "alone", "--max_steps", "1")
    assert train.main(argv) == 0
    number = r"text_embeddings: (\d+) of"
    alone = re.search(number, capsys.readouterr().out)
    other = tmp_path / "other.hdf5"
    with h5py.File(shutil.copyfile(tokens, other), "r+") as file:
        group = file["splits/train"] if "splits" in file else file["train"]
        group["text_tokens"][0] = 511  # of the embedded base's 512, and not in demo speech
    argv = options(tokens, tmp_path / "both", "--max_steps", "1", "--replay", f"{other}:0.5")
    assert train.main(argv) == 0
    both = re.search(number, capsys.readouterr().out)
    assert alone
    assert both
    assert int(both[1]) == int(alone[1]) + 1
