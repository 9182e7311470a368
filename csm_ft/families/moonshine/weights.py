"""Loading Moonshine checkpoints: transformers' layout (hub name, folder, file), or Keras files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.errors import WeightsError, first_line
from csm_ft.families import lora
from csm_ft.families.checkpoint_files import Checkpoint, locate
from csm_ft.families.model import check_tensors
from csm_ft.families.moonshine import keras
from csm_ft.families.moonshine import model as first
from csm_ft.families.moonshine.encoder import TextTokenizer
from csm_ft.families.moonshine.model import MoonshineModel
from csm_ft.families.moonshine.size import MoonshineSize
from csm_ft.families.moonshine.streaming import StreamingModel
from csm_ft.families.moonshine.streaming_size import MODEL_TYPE, StreamingSize

VOCABULARY = "vocabulary_fingerprint"  # key of config.json in the checkpoints of a run
_HEAD = "proj_out.weight"  # the embeddings again
_EMBEDDINGS = "model.decoder.embed_tokens.weight"


def load_model(name: str) -> MoonshineModel:
    """Load a checkpoint as fp32 on the CPU; adapters are merged into the base that they name.

    Raises WeightsError for a missing or foreign file, and for tensors that are missing, unknown or
    of another shape.
    """
    model = empty_model(size_of(name))
    load_weights(model, name)
    return model


def empty_model(size: MoonshineSize | StreamingSize) -> MoonshineModel:
    """Build a model of either generation on the meta device, without memory for its weights."""
    if isinstance(size, MoonshineSize):
        return first.empty_model(size)
    with torch.device("meta"):
        return StreamingModel(size)


def size_of(name: str) -> MoonshineSize | StreamingSize:
    """Return the size of a checkpoint by its config.json; WeightsError as load_model."""
    if files := keras.find(name):
        return keras.read(files)[0]
    found = locate(name)
    if found.is_adapter:
        return size_of(_adapters(found).base)
    if found.config is None:
        raise WeightsError(
            f"{found.where}: its size is in config.json, which is not beside it; fetch it from"
            " where the weights came"
        )
    try:
        values = json.loads(found.config.read_text(encoding="utf-8"))
        kind = StreamingSize if values.get("model_type") == MODEL_TYPE else MoonshineSize
        return kind.from_json(values, str(found.config))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{found.config}: not the config of a Moonshine in transformers' layout ({error!r});"
            " fetch it again"
        ) from error


def vocabulary_of(name: str) -> str:
    """Return the vocabulary that a checkpoint was trained with; "" = not known.

    By the tokenizer beside it, or by what a run has written into its config.json.
    """
    if keras.find(name):
        return ""
    found = locate(name)
    if found.is_adapter:
        return vocabulary_of(_adapters(found).base)
    tokenizer = found.files[0].parent / "tokenizer.json"
    if tokenizer.is_file():
        return TextTokenizer(tokenizer.read_bytes(), str(tokenizer)).vocabulary
    if found.config is None:
        return ""
    return str(json.loads(found.config.read_text(encoding="utf-8")).get(VOCABULARY, ""))


def load_weights(model: MoonshineModel, name: str) -> None:
    """Load a checkpoint into an empty model of its size; raises WeightsError as load_model does."""
    if files := keras.find(name):
        _fill(model, keras.read(files)[1], name)
        return
    found = locate(name)
    if found.is_adapter:
        adapters = _adapters(found)
        load_weights(model, adapters.base)
        lora.merge(adapters, model)
        return
    tensors = _read(found.files)
    embeddings = tensors.get(_EMBEDDINGS)
    if isinstance(model, StreamingModel):
        if embeddings is not None:
            tensors.setdefault(_HEAD, embeddings.clone())  # saved as one, as they were equal
    elif not _is_tied(tensors.pop(_HEAD, None), embeddings):
        raise WeightsError(
            f"{found.where}: {_HEAD} differs from {_EMBEDDINGS}; Moonshine's head is tied to its"
            " embeddings, so this is another model"
        )
    _fill(model, tensors, found.where)


def _fill(model: MoonshineModel, tensors: Mapping[str, Tensor], where: str) -> None:
    way_out = "fetch the checkpoint again, with all files that belong to it"
    check_tensors(model.state_dict(), tensors, where, way_out=way_out)
    loaded = {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}
    model.load_state_dict(loaded, assign=True)
    model.requires_grad_(True)


def _is_tied(head: Tensor | None, embeddings: Tensor | None) -> bool:
    return head is None or embeddings is None or torch.equal(head, embeddings)


def _adapters(found: Checkpoint) -> lora.Adapters:
    return lora.read_adapters(found.files[0].parent)


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"{file}: not readable as tensors ({first_line(error)[:200]}); fetch it again"
            ) from error
    return tensors
