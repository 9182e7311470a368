"""CSM weights between Sesame's layout and that of transformers' CsmForConditionalGeneration.

Only names differ, and the order of rows in q_proj and k_proj: Sesame's RoPE turns interleaved
pairs, transformers' turns halves.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from csm_ft.errors import ConfigError
from csm_ft.families.csm.size import MAX_POSITIONS, PRESETS, CsmSize, TransformerSize

AUDIO_EMBEDDINGS = "backbone_model.embed_tokens.embed_audio_tokens.weight"
_ADAPTER = re.compile(
    r"base_model\.model\.(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)"
)
_PREFIX = "base_model.model."  # of names in peft's files
# The second name of the audio embeddings; transformers writes only this one.
TIED = "depth_decoder.model.embed_tokens.weight"
_TOP = {
    "text_embeddings.weight": "embed_text_tokens.weight",
    "audio_embeddings.weight": AUDIO_EMBEDDINGS,
    "codebook0_head.weight": "lm_head.weight",
    "audio_head": "depth_decoder.codebooks_head.weight",
    "projection.weight": "depth_decoder.model.inputs_embeds_projector.weight",
    "backbone.norm.scale": "backbone_model.norm.weight",
    "decoder.norm.scale": "depth_decoder.model.norm.weight",
}
_LAYER = {
    "attn.q_proj.weight": "self_attn.q_proj.weight",
    "attn.k_proj.weight": "self_attn.k_proj.weight",
    "attn.v_proj.weight": "self_attn.v_proj.weight",
    "attn.output_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.gate_proj.weight",
    "mlp.w2.weight": "mlp.down_proj.weight",
    "mlp.w3.weight": "mlp.up_proj.weight",
    "sa_norm.scale": "input_layernorm.weight",
    "mlp_norm.scale": "post_attention_layernorm.weight",
}
_STACKS = {"backbone": "backbone_model", "decoder": "depth_decoder.model"}
_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def to_transformers(weights: Mapping[str, Tensor], size: CsmSize) -> dict[str, Tensor]:
    """Rename and permute Sesame's tensors; the codec's are not among them."""
    renamed = {}
    for name, tensor in weights.items():
        other = _other_name(name, _TOP, _STACKS, _LAYER)
        if other is None:
            raise ConfigError(f"{name} is not a tensor of a CSM checkpoint in Sesame's layout")
        heads = _rope_heads(name, size)
        renamed[other] = _halves(tensor, heads) if heads else tensor
    return renamed


def from_transformers(weights: Mapping[str, Tensor], size: CsmSize) -> dict[str, Tensor]:
    """Rename and permute back; the codec's tensors are left out."""
    top, stacks, layer = ({v: k for k, v in table.items()} for table in (_TOP, _STACKS, _LAYER))
    top[TIED] = "audio_embeddings.weight"
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("codec_model."):
            continue
        other = _other_name(name, top, stacks, layer)
        if other is None:
            raise ConfigError(f"{name} is not a tensor of CsmForConditionalGeneration")
        heads = _rope_heads(other, size)
        renamed[other] = _pairs(tensor, heads) if heads else tensor
    return renamed


def adapter_to_transformers(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], size: CsmSize
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rename and permute adapters in peft's format, for CsmForConditionalGeneration.

    A row of lora_B (and of DoRA's magnitudes) is a row of the weight, so those of q_proj and k_proj
    move with it; lora_A stays. ConfigError for an adapter that has no counterpart there.
    """
    renamed, modules = {}, {}
    for name, tensor in tensors.items():
        match = _ADAPTER.fullmatch(name)
        other = match and _other_name(f"{match[1]}.weight", _TOP, _STACKS, _LAYER)
        if not match or other is None:
            raise ConfigError(
                f"{name} is not a LoRA adapter of a linear layer of CSM; use --format merged"
            )
        heads = _rope_heads(f"{match[1]}.weight", size) if match[2] != "lora_A.weight" else 0
        module = other.removesuffix(".weight")
        renamed[f"base_model.model.{module}.{match[2]}"] = (
            _halves(tensor, heads) if heads else tensor
        )
        modules[match[1]] = module
    library = {
        "base_model_class": "CsmForConditionalGeneration",
        "parent_library": "transformers.models.csm.modeling_csm",
    }
    return renamed, {**config, **_named_apart(config, modules), "auto_mapping": library}


def adapter_from_transformers(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], size: CsmSize
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rename and permute adapters back that were trained on CsmForConditionalGeneration.

    Whole modules (modules_to_save) are renamed with them. Adapters on the codec are left out if
    they do nothing (a list of names such as q_proj puts some there, which no loss reaches);
    ConfigError if they do something, and for adapters that have no counterpart here.
    """
    top, stacks, layer = ({v: k for k, v in table.items()} for table in (_TOP, _STACKS, _LAYER))
    top[TIED] = "audio_embeddings.weight"
    renamed, modules = {}, {}
    for name, tensor in tensors.items():
        match = _ADAPTER.fullmatch(name)
        if match and match[1].startswith("codec_model."):
            if match[2] == "lora_B.weight" and bool(tensor.any()):
                raise ConfigError(
                    f"{name}: an adapter of the codec, which is not trained here; give one without"
                )
            continue
        part = match[2] if match else "weight"
        module_name = match[1] if match else name.removeprefix(_PREFIX).removesuffix(".weight")
        other = _other_name(f"{module_name}.weight", top, stacks, layer)
        if other is None:
            raise ConfigError(
                f"{name} is neither a LoRA adapter of a linear layer of"
                " CsmForConditionalGeneration nor one of its modules"
            )
        heads = _rope_heads(other, size) if part != "lora_A.weight" else 0
        module = other.removesuffix(".weight")
        new_name = f"{_PREFIX}{other}" if part == "weight" else f"{_PREFIX}{module}.{part}"
        moved = _pairs(tensor, heads) if heads else tensor
        if not renamed.setdefault(new_name, moved).equal(moved):
            raise ConfigError(
                f"{name} differs from the other copy of the audio embeddings, which is one tensor"
                " here; train without it, or merge the adapters where they were trained"
            )
        if match:
            modules[module_name] = module
    return renamed, {**config, **_named_apart(config, modules), "auto_mapping": None}


def _named_apart(config: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys of a LoRA configuration that name modules, for new names of the modules.

    Each module is named, so nothing is left to exclude, and ranks and scales of patterns are said
    for each.
    """
    from peft.utils.other import get_pattern_key

    patterns: dict[str, dict[str, Any]] = {}
    for key in ("rank_pattern", "alpha_pattern"):
        given = config.get(key) or {}
        matches = {new: get_pattern_key([*given], old) for old, new in modules.items()}
        found = {new: given[old] for new, old in matches.items() if old in given}
        patterns[key] = {re.escape(new): value for new, value in found.items()}
    left = {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    return {**left, **patterns, "target_modules": _pattern(list(modules.values()))}


def is_transformers_adapter(names: Mapping[str, Any]) -> bool:
    """Tell whether names of adapters in peft's format are of modules of transformers."""
    return any(
        name.startswith(("base_model.model.backbone_model.", "base_model.model.depth_decoder."))
        for name in names
    )


def is_transformers_layout(names: Mapping[str, Any]) -> bool:
    """Tell whether tensor names are those of transformers."""
    return "lm_head.weight" in names or "embed_text_tokens.weight" in names


def transformers_config(size: CsmSize) -> dict[str, Any]:
    """Return config.json for CsmForConditionalGeneration, without the codec's part.

    `CsmConfig()` alone would be wrong: its RoPE is not the scaled one of Llama 3.1.
    """
    rope = {**_ROPE, "original_max_position_embeddings": 8192}
    common = {
        "vocab_size": size.audio_vocab_size,
        "num_codebooks": size.num_codebooks,
        "rope_parameters": rope,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    }
    depth = {
        **common,
        **_transformer(size.decoder),
        "backbone_hidden_size": size.backbone.dim,
        "max_position_embeddings": size.num_codebooks + 1,
    }
    return {
        **common,
        **_transformer(size.backbone),
        "text_vocab_size": size.text_vocab_size,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_codebooks_embeddings": True,
        "depth_decoder_config": depth,
    }


def size_of_transformers(config: Mapping[str, Any], where: str) -> CsmSize:
    """Read the size from transformers' config.json; ConfigError names what is missing."""
    try:
        depth = config["depth_decoder_config"]
        return CsmSize(
            _size(config, PRESETS["llama-1B"]).check(f"{where}: backbone"),
            _size(depth, PRESETS["llama-100M"]).check(f"{where}: depth decoder"),
            int(config["text_vocab_size"]),
            int(config["vocab_size"]),
            int(config["num_codebooks"]),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{where}: not the config of a CsmForConditionalGeneration ({error} is missing)"
        ) from error


def _size(config: Mapping[str, Any], default: TransformerSize) -> TransformerSize:
    keys = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
    }
    keys |= {"dim": "hidden_size", "ffn_dim": "intermediate_size"}
    return TransformerSize(
        **{ours: int(config.get(theirs, getattr(default, ours))) for ours, theirs in keys.items()}
    )


def _transformer(size: TransformerSize) -> dict[str, int]:
    return {
        "hidden_size": size.dim,
        "intermediate_size": size.ffn_dim,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.dim // size.heads,
    }


def _other_name(
    name: str, top: Mapping[str, str], stacks: Mapping[str, str], layer: Mapping[str, str]
) -> str | None:
    if name in top:
        return top[name]
    match = re.fullmatch(r"(.+?)\.layers\.(\d+)\.(.+)", name)
    if match is None or match[1] not in stacks or match[3] not in layer:
        return None
    return f"{stacks[match[1]]}.layers.{match[2]}.{layer[match[3]]}"


def _pattern(modules: Sequence[str]) -> str:
    """Return a regular expression of these modules alone; the codec has a q_proj, too."""
    layers: dict[tuple[str, str], set[int]] = {}  # (stack, module in the layer) -> its layers
    patterns = []
    for module in dict.fromkeys(modules):
        match = re.fullmatch(r"(.+)\.layers\.(\d+)\.(.+)", module)
        if match:
            layers.setdefault((match[1], match[3]), set()).add(int(match[2]))
        else:
            patterns.append(re.escape(module))
    alike: dict[tuple[str, str], list[str]] = {}  # (stack, layers) -> modules
    for (stack, inner), numbers in layers.items():
        alike.setdefault((stack, "|".join(map(str, sorted(numbers)))), []).append(re.escape(inner))
    in_layers = [
        rf"{re.escape(stack)}\.layers\.({numbers})\.({'|'.join(inner)})"
        for (stack, numbers), inner in alike.items()
    ]
    return "|".join([*in_layers, *patterns])


def _rope_heads(sesame_name: str, size: CsmSize) -> int:
    """Heads of a tensor whose rows RoPE turns, 0 for all others."""
    transformer = size.backbone if sesame_name.startswith("backbone.") else size.decoder
    if sesame_name.endswith("attn.q_proj.weight"):
        return transformer.heads
    return transformer.kv_heads if sesame_name.endswith("attn.k_proj.weight") else 0


def _halves(weight: Tensor, heads: int) -> Tensor:
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def _pairs(weight: Tensor, heads: int) -> Tensor:
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)
