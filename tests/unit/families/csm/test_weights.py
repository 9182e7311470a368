"""Starting weights in every layout that people have, and those that cannot be read."""

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from csm_ft.errors import ConfigError, HubError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.weights import load_model, locate
from csm_ft.families.lora import save_adapters, tensors_of
from csm_ft.training.optim import choose_parameters
from tests.helpers.hub import REVISION
from tests.helpers.splits import SIZE, make_model
from tests.helpers.theirs import their_model


def sesame(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in make_model(1).state_dict().items()} | changes,
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(
        json.dumps(SIZE.to_json() | {"architectures": ["CsmForConditionalGeneration"]})
    )
    return folder


def transformers_shards(folder: Path) -> Path:
    folder.mkdir()
    tensors = {
        k: v.contiguous()
        for k, v in layouts.to_transformers(make_model(1).state_dict(), SIZE).items()
    }
    tensors["codec_model.something"] = torch.zeros(2)
    names = sorted(tensors)
    parts = {
        "transformers-00001-of-00002.safetensors": names[::2],
        "transformers-00002-of-00002.safetensors": names[1::2],
    }
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (folder / "transformers.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(layouts.transformers_config(SIZE)))
    return folder


def pt_file(folder: Path) -> Path:
    folder.mkdir()
    state = make_model(1).state_dict() | {
        "backbone_causal_mask": torch.ones(2, 2, dtype=torch.bool)
    }
    torch.save({"model": state, "optimizer": {"step": 3}}, folder / "ckpt.pt")
    (folder / "config.json").write_text(json.dumps(SIZE.to_json()))
    return folder


def adapter(folder: Path) -> Path:
    """Adapters that do nothing, over a base beside them."""
    folder.mkdir()
    base = sesame(folder.with_name(f"{folder.name}-base"))
    model = load_model(str(base))
    config = CsmConfig.model_validate(
        {"method": "lora", "lora_rank": 2, "model_name_or_checkpoint_path": str(base)}
    )
    choose_parameters(model, CsmFamily(), config)
    save_adapters(folder, model, tensors_of(model))
    return folder


def whole_repository(folder: Path) -> Path:
    """Every layout side by side, as Sesame's repository has them; its pickle is not needed."""
    transformers_shards(folder)
    sesame(folder)
    (folder / "ckpt.pt").write_bytes(b"not needed")
    return folder


ALL_LAYOUTS = [sesame, transformers_shards, pt_file, adapter, whole_repository]


@pytest.mark.parametrize("make", ALL_LAYOUTS)
def test_every_layout_gives_the_same_model(tmp_path: Path, make: Any) -> None:
    expected = make_model(1).state_dict()
    loaded = load_model(str(make(tmp_path / "base"))).state_dict()
    assert set(loaded) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("make", ALL_LAYOUTS)
def test_every_layout_has_a_hub_name(hub: Path, tmp_path: Path, make: Any) -> None:
    """In the hub's cache, which is what a download fills; no network is needed."""
    made = make(tmp_path / "base")
    snapshot = hub / f"models--someone--{make.__name__}" / "snapshots" / REVISION
    shutil.copytree(made, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(REVISION)
    expected = make_model(1).state_dict()
    loaded = load_model(f"someone/{make.__name__}").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_name_that_is_nowhere_is_told(hub: Path) -> None:
    with pytest.raises(
        HubError,
        match=r"someone/nothing is not on this disk.*download the repository.*--train_from_scratch",
    ):
        load_model("someone/nothing")


def test_loading_twice_gives_two_models(tmp_path: Path) -> None:
    folder = str(sesame(tmp_path / "base"))
    first = load_model(folder)
    with torch.no_grad():
        first.audio_head.zero_()
    assert load_model(folder).audio_head.abs().sum() > 0


@pytest.mark.filterwarnings("ignore")
def test_transformers_own_files_are_read_exactly(tmp_path: Path) -> None:
    model = make_model(4)
    their_model(model).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = load_model(str(tmp_path))
    assert loaded.size == SIZE
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_shapes_tell_presets_only(tmp_path: Path) -> None:
    folder = sesame(tmp_path / "base")
    (folder / "config.json").unlink()
    with pytest.raises(
        ConfigError,
        match=r"none of llama-1B, llama-100M, tiny.*put the checkpoint's config.json beside it",
    ):
        load_model(str(folder / "model.safetensors"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was_here",)


def break_missing_shard(folder: Path) -> Path:
    transformers_shards(folder)
    (folder / "transformers-00002-of-00002.safetensors").unlink()
    return folder


def break_half_file(folder: Path) -> Path:
    sesame(folder)
    blob = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(blob[: len(blob) // 2])
    return folder


def break_pickle(folder: Path) -> Path:
    folder.mkdir()
    torch.save({"model": Evil()}, folder / "ckpt.pt")
    return folder


def break_outside(folder: Path) -> Path:
    transformers_shards(folder)
    (folder / "transformers.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/passwd"}})
    )
    return folder


def break_config(folder: Path) -> Path:
    sesame(folder)
    (folder / "config.json").write_text(json.dumps({"audio_num_codebooks": 32}))
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (break_missing_shard, "1 of 2 shards are missing"),
        (break_half_file, "not readable as tensors"),
        (
            break_pickle,
            r"besides tensors it holds \w+\.mkdir.*nothing was read.*weights_only=False",
        ),
        (break_outside, "outside of its folder"),
        (break_config, "not the config of a CSM checkpoint"),
        (
            lambda f: sesame(f, surprise=torch.zeros(1)),
            r"0 tensors missing .* 1 unknown \(e.g. \['surprise'\]\)",
        ),
        (
            lambda f: sesame(f, **{"codebook0_head.weight": torch.zeros(3, 3)}),
            r"codebook0_head.weight is \(3, 3\), a model of this size.*config.json",
        ),
        (lambda f: f.mkdir() or f, "none of model.safetensors, model.safetensors.index.json"),
    ],
)
def test_what_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_model(str(make(tmp_path / "base")))
    assert not (tmp_path / "was_here").exists(), "nothing in a file may run"


def public_trainer_values(layout: str) -> dict[str, Any]:
    """What the public trainer saves: its options are a Namespace, with paths in it."""
    args = Namespace(learning_rate=3e-5, output_dir=Path("exp"), use_amp=True, name=None)
    weights = make_model(1).state_dict()
    if layout == "transformers":
        weights = layouts.to_transformers(weights, SIZE)
    return {"model": weights, "args": args, "best_val_loss": 5.1, "effective_step": 40}


@pytest.mark.parametrize("layout", ["sesame", "transformers"])
def test_public_trainers_checkpoint_is_read(tmp_path: Path, layout: str) -> None:
    torch.save(public_trainer_values(layout), tmp_path / "model_bestval.pt")
    sizes = SIZE.to_json() if layout == "sesame" else layouts.transformers_config(SIZE)
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    loaded = load_model(str(tmp_path / "model_bestval.pt")).state_dict()
    for name, tensor in make_model(1).state_dict().items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("place", ["beside", "in_args"])
def test_code_in_a_checkpoint_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    values = public_trainer_values("sesame")
    if place == "beside":
        values["extra"] = Evil()
    else:
        values["args"] = Namespace(callback=Evil())
    torch.save(values, tmp_path / "model_bestval.pt")
    with pytest.raises(ConfigError, match=r"\.mkdir"):
        load_model(str(tmp_path / "model_bestval.pt"))
    assert not (tmp_path / "was_here").exists()


def test_advice_for_foreign_pickles_works(tmp_path: Path) -> None:
    values = public_trainer_values("sesame") | {"args": Fraction(1, 2)}
    path = tmp_path / "model_bestval.pt"
    torch.save(values, path)
    (tmp_path / "config.json").write_text(json.dumps(SIZE.to_json()))
    with pytest.raises(ConfigError, match=r"fractions\.Fraction") as caught:
        load_model(str(path))
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    code = "import torch\n" + "\n".join(line.strip() for line in lines)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert load_model(str(tmp_path / "model_bestval.tensors.pt")).size == SIZE


def test_cached_files_are_not_fetched_again(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = hub / "models--someone--cached" / "snapshots" / REVISION
    shutil.copytree(transformers_shards(tmp_path / "base"), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(REVISION)

    def refuse(name: str, file: str) -> str:
        raise AssertionError(f"{name}/{file} was fetched")

    monkeypatch.setattr("csm_ft.hub.hf_hub_download", refuse)
    assert load_model("someone/cached").size == SIZE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", "no such file"),
        ("/nothing/here", "no such file"),
        ("notes.txt", "not a hub name"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        locate(name)
