"""The judge of many tests: transformers' own model on our weights."""

from typing import Any

from transformers import CsmConfig, CsmForConditionalGeneration

from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.model import CsmModel


def their_model(model: CsmModel) -> Any:
    """Build CsmForConditionalGeneration with the weights of `model` and a small random codec."""
    small_codec = {
        "model_type": "mimi",
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_filters": 2,
        "intermediate_size": 16,
    }
    small_codec |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
    }
    config = CsmConfig(
        **layouts.transformers_config(model.size),
        codec_config=small_codec | {"upsample_groups": 16},
    )
    theirs = CsmForConditionalGeneration(config).eval()
    weights = layouts.to_transformers(model.state_dict(), model.size)
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("codec_model.") or name == layouts.TIED for name in missing)
    theirs.tie_weights()
    return theirs
