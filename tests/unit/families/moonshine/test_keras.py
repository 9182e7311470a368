"""Keras files of Moonshine, written here as Keras lays them out, and read back."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from csm_ft.errors import WeightsError
from csm_ft.families.moonshine.model import MoonshineModel, empty_model, init_weights
from csm_ft.families.moonshine.size import MoonshineSize
from csm_ft.families.moonshine.weights import load_model, size_of

SIZE = MoonshineSize(48, 96, 3, 2, 4, 0.7, vocab_size=50)
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}
NORMS = {
    "input_layernorm": "layer_normalization",
    "post_attention_layernorm": "layer_normalization_1",
    "final_layernorm": "layer_normalization_2",
}


def keras_path(name: str) -> tuple[str, str]:
    """Return the file and the place in it of a tensor of transformers' layout."""
    _, part, *rest = name.split(".")
    variable = "vars/1" if rest[-1] == "bias" else "vars/0"
    if rest[0].startswith("conv"):
        number = int(rest[0][4]) - 1
        layer = f"conv1d_{number}" if number else "conv1d"
        return "preprocessor", f"layers/sequential/layers/{layer}/{variable}"
    if rest[0] == "groupnorm":
        return "preprocessor", f"layers/sequential/layers/group_normalization/{variable}"
    if rest[0] in ("layer_norm", "norm"):
        return part, f"layers/layer_normalization/{variable}"
    if rest[0] == "embed_tokens":
        return part, f"layers/reversible_embedding/{variable}"
    number = int(rest[1])
    layer = f"layers/functional_{number}/layers" if number else "layers/functional/layers"
    if rest[2] in NORMS:
        return part, f"{layer}/{NORMS[rest[2]]}/{variable}"
    if rest[2] == "mlp":
        inner = "functional/layers" + ("/sequential/layers" if part == "encoder" else "")
        return part, f"{layer}/{inner}/{'dense' if rest[3] == 'fc1' else 'dense_1'}/{variable}"
    kind = {"encoder": "mha_with_rope", "decoder": "mha_causal_with_rope"}[part]
    kind = "mha_precomputed_kv" if rest[2] == "encoder_attn" else kind
    return part, f"{layer}/{kind}/{PROJECTIONS[rest[3]]}_dense/{variable}"


def write(folder: Path, model: MoonshineModel, names: dict[str, str]) -> None:
    files = {part: h5py.File(folder / name, "w") for part, name in names.items()}
    for name, tensor in model.state_dict().items():
        part, place = keras_path(name)
        values = tensor.numpy()
        if "_attn" in name:
            by_heads = (-1, SIZE.heads, SIZE.head_dim)
            values = values.T  # [in, out]
            is_output = "o_proj" in name
            values = values.reshape(*by_heads[1:], -1) if is_output else values.reshape(by_heads)
        elif values.ndim > 1 and "embed_tokens" not in name:
            values = values.swapaxes(0, -1)
        files[part][place] = values
    for part in ("encoder", "decoder"):
        files[part]["layers/rotary_embedding/vars/0"] = np.zeros(SIZE.rotary_dim // 2, np.float32)
    for file in files.values():
        file.close()


@pytest.fixture
def model() -> MoonshineModel:
    model = empty_model(SIZE)
    init_weights(model, 0)
    for name, values in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(values, generator=torch.Generator().manual_seed(len(name)))
    return model


NAMES = {part: f"{part}.weights.h5" for part in ("preprocessor", "encoder", "decoder")}


def test_three_files_are_one_model(model: MoonshineModel, tmp_path: Path) -> None:
    """Whatever they are called: what is in them counts."""
    names = {"preprocessor": "c.weights.h5", "encoder": "a.weights.h5", "decoder": "b.weights.h5"}
    write(tmp_path, model, names)
    size = size_of(str(tmp_path))
    assert isinstance(size, MoonshineSize)
    assert size.rotary_dim == SIZE.rotary_dim
    for name in (str(tmp_path), str(tmp_path / "a.weights.h5")):
        read = load_model(name).state_dict()
        assert read.keys() == model.state_dict().keys()
        assert all(torch.equal(read[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("part", NAMES)
def test_half_a_set_is_refused(part: str, model: MoonshineModel, tmp_path: Path) -> None:
    write(tmp_path, model, NAMES)
    (tmp_path / NAMES[part]).unlink()
    with pytest.raises(WeightsError, match=f"holds the {part}; the three files"):
        load_model(str(tmp_path))


def test_second_encoder_is_refused(model: MoonshineModel, tmp_path: Path) -> None:
    write(tmp_path, model, NAMES)
    other = tmp_path / "other.weights.h5"
    other.write_bytes((tmp_path / NAMES["encoder"]).read_bytes())
    with pytest.raises(WeightsError, match=r"other\.weights\.h5: is a second encoder"):
        load_model(str(tmp_path))


def test_parts_of_other_sizes_are_refused(model: MoonshineModel, tmp_path: Path) -> None:
    write(tmp_path, model, NAMES)
    with h5py.File(tmp_path / NAMES["preprocessor"], "r+") as file:
        place = "layers/sequential/layers/conv1d/vars/0"
        kernel = file[place][:]
        del file[place]
        file[place] = kernel[..., :40]
    with pytest.raises(WeightsError, match=r"conv1\.weight"):
        load_model(str(tmp_path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.zeros(3)
    with pytest.raises(WeightsError, match="holds no part of a Moonshine"):
        load_model(str(tmp_path))
    (tmp_path / "x.weights.h5").write_text("no")
    with pytest.raises(WeightsError, match="not readable as HDF5"):
        load_model(str(tmp_path))
