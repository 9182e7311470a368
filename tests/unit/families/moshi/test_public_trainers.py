"""kyutai's YAML and checkpoints, J-Moshi's flags: what they become here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from csm_ft.config.base import build, read_yaml
from csm_ft.errors import ConfigError, WeightsError
from csm_ft.families.moshi.config import MoshiConfig, MoshiPretokenizeConfig
from csm_ft.families.moshi.model import MoshiModel, empty_model
from csm_ft.families.moshi.weights import linear_names, load_model, load_weights, to_hub
from tests.unit.families.moshi.test_model import SIZE, model_of

EXAMPLE: dict[str, Any] = {  # the keys of kyutai's example
    "data": {"train_data": "train.jsonl", "eval_data": "", "shuffle": True},
    "moshi_paths": {"hf_repo_id": "kyutai/moshiko-pytorch-bf16"},
    "full_finetuning": False,
    "lora": {"enable": True, "rank": 128, "scaling": 2.0, "ft_embed": False},
    "first_codebook_weight_multiplier": 100.0,
    "text_padding_weight": 0.5,
    "duration_sec": 100,
    "batch_size": 16,
    "max_steps": 2000,
    "gradient_checkpointing": True,
    "optim": {"lr": 2e-6, "weight_decay": 0.1, "pct_start": 0.05},
    "seed": 0,
    "log_freq": 1,
    "eval_freq": 100,
    "do_eval": False,
    "do_ckpt": True,
    "ckpt_freq": 100,
    "save_adapters": True,
    "run_dir": "runs/a",
}


def read(tmp_path: Path, values: dict[str, Any]) -> MoshiConfig:
    path = tmp_path / "example.yaml"
    path.write_text(yaml.safe_dump(values))
    return build(MoshiConfig, read_yaml(MoshiConfig, path))


def test_nested_yaml_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read(tmp_path, EXAMPLE)
    assert (config.method, config.lora_rank, config.lora_alpha) == ("lora", 128, 256)
    assert (config.learning_rate, config.weight_decay, config.warmup_steps) == (2e-6, 0.1, "5%")
    assert (config.window_sec, config.batch_size, config.max_steps) == (100, 16, 2000)
    assert (config.val_every, config.save_every, config.output_dir) == ("100", "100", "runs/a")
    assert config.model_name_or_checkpoint_path == "kyutai/moshiko-pytorch-bf16"
    told = capsys.readouterr().out.replace("\n", " ")
    assert config.activation_checkpointing == "full"
    assert "gradient_checkpointing" not in told
    assert "data.train_data is not used: pretokenize.py reads it" in told


def test_pretokenize_takes_its_part_of_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(yaml.safe_dump({**EXAMPLE, "data": {"train_data": "a", "eval_data": "b"}}))
    config = build(MoshiPretokenizeConfig, read_yaml(MoshiPretokenizeConfig, path))
    assert (config.train_data, config.val_data) == ("a", "b")


def test_full_finetuning_and_unknown_keys(tmp_path: Path) -> None:
    full = {**EXAMPLE, "full_finetuning": True, "lora": {"enable": False}}
    assert read(tmp_path, full).method == "full"
    with pytest.raises(ConfigError, match=r"optim\.momentum"):
        read(tmp_path, {**EXAMPLE, "optim": {"momentum": 1}})


def test_flags_of_j_moshi() -> None:
    config = build(
        MoshiConfig,
        {
            "tempformer_learning_rate": 3e-5,
            "depformer_learning_rate": 1.5e-5,
            "max_length": 2048,
            "moshi_speakers": "A,B",
            "semantic_loss_weight": 50.0,
            "acoustic_loss_weight": 2.0,
            "per_device_train_batch_size": 4,
        },
    )
    assert (config.learning_rate, config.temporal_lr_factor, config.depth_lr_factor) == (
        3e-5,
        1.0,
        0.5,
    )
    assert config.window_sec == pytest.approx(163.84)
    assert (config.moshi_channel, config.batch_size) == ("both", 4)
    assert config.first_codebook_weight_multiplier == 25.0
    assert build(MoshiConfig, {"parameters_to_finetune": "depformer"}).method == "depth_only"
    with pytest.raises(ConfigError, match="moshi_speakers"):
        build(MoshiConfig, {"moshi_speakers": "C"})


def save_base(folder: Path) -> MoshiModel:
    folder.mkdir()
    model = model_of()
    save_file(
        {k: v.contiguous() for k, v in to_hub(model.state_dict()).items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({**SIZE.to_json(), "lora": True}))
    return model


def save_pairs(folder: Path, model: MoshiModel, scaling: float) -> dict[str, torch.Tensor]:
    """Write adapters as kyutai's trainer does, with an embedding that was trained beside them."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name in linear_names(model):
        rows, columns = model.state_dict()[f"{name}.weight"].shape
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    tensors["text_emb.weight"] = torch.randn(31, 32, generator=generator)
    save_file(tensors, folder / "lora.safetensors")
    config = {**SIZE.to_json(), "lora": True, "lora_rank": 2, "lora_scaling": scaling}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def test_adapters_of_kyutais_trainer_are_merged_into_their_base(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    folder = tmp_path / "run/checkpoints/checkpoint_000100"
    pairs = save_pairs(folder / "consolidated", base, 2.0)
    merged = load_model(f"{tmp_path / 'base'}+{folder}").state_dict()
    name = "depformer.layers.1.gating.2.linear_out"
    change = 2.0 * pairs[f"{name}.lora_B.weight"] @ pairs[f"{name}.lora_A.weight"]
    expected = base.state_dict()[f"{name}.weight"] + change
    torch.testing.assert_close(merged[f"{name}.weight"], expected)
    assert torch.equal(merged["text_emb.weight"], pairs["text_emb.weight"])
    assert torch.equal(merged["emb.0.weight"], base.state_dict()["emb.0.weight"])


def test_merged_checkpoint_that_says_lora_is_read_whole(tmp_path: Path) -> None:
    base = save_base(tmp_path / "consolidated")
    (tmp_path / "consolidated/model.safetensors").rename(
        tmp_path / "consolidated/consolidated.safetensors"
    )
    read_back = load_model(str(tmp_path)).state_dict()
    assert all(torch.equal(read_back[name], value) for name, value in base.state_dict().items())


def test_wrong_bases_are_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    folder = tmp_path / "lora"
    save_pairs(folder, base, 2.0)
    tensors = {"linears.0.lora_A.weight": torch.zeros(2, 99)}
    tensors["linears.0.lora_B.weight"] = torch.zeros(20, 2)
    save_file(tensors, folder / "lora.safetensors")
    with pytest.raises(WeightsError, match=r"linears\.0 is of another size"):
        load_model(f"{tmp_path / 'base'}+{folder}")
    save_file({"other.weight": torch.zeros(2)}, folder / "lora.safetensors")
    with pytest.raises(WeightsError, match="are no adapters"):
        load_model(f"{tmp_path / 'base'}+{folder}")
    with pytest.raises(WeightsError, match=r"holds no lora\.safetensors"):
        load_model(f"{tmp_path / 'base'}+{tmp_path / 'base'}")


def test_config_of_j_moshi_is_read(tmp_path: Path) -> None:
    base = save_base(tmp_path / "clean")
    (tmp_path / "clean/config.json").rename(tmp_path / "clean/moshi_lm_kwargs.json")
    read_back = load_model(str(tmp_path / "clean")).state_dict()
    assert all(torch.equal(read_back[name], value) for name, value in base.state_dict().items())


@pytest.mark.parametrize("num_ids", [30, 50, 20])
def test_new_text_embeddings_are_typical_and_paddings_stay(tmp_path: Path, num_ids: int) -> None:
    base = save_base(tmp_path / "base").state_dict()
    model = empty_model(replace(SIZE, text_card=num_ids))
    load_weights(model, str(tmp_path / "base"), ([7], 0))
    new = model.state_dict()
    for name in ("text_emb.weight", "depformer_text_emb.weight"):
        assert new[name].shape[0] == num_ids + 1
        assert torch.equal(new[name][[0, 3, 7, num_ids]], base[name][[0, 3, 7, 30]])
        far = (new[name][8:num_ids] - base[name].mean(0)).norm(dim=1)
        assert float(far.max()) < 0.1 * float((base[name] - base[name].mean(0)).norm(dim=1).min())
    assert torch.equal(new["text_linear.weight"], base["text_linear.weight"]) == (num_ids == 30)
    assert torch.equal(new["emb.0.weight"], base["emb.0.weight"])
