"""CSM between Sesame's and transformers' layouts, judged by transformers' own code: logits, loss and greedy frames."""

from typing import Any

import numpy as np
import pytest
import torch

from csm_ft.config import ConfigError
from csm_ft.families.csm import layouts
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.model import CsmModel
from tests.splits import SIZE, examples_of, make_model, make_split


def their_model(model: CsmModel) -> Any:
    from transformers import CsmConfig, CsmForConditionalGeneration

    small_codec = {"model_type": "mimi", "num_hidden_layers": 1, "hidden_size": 16, "num_filters": 2, "intermediate_size": 16}
    small_codec |= {"num_attention_heads": 2, "num_key_value_heads": 2, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8}
    config = CsmConfig(**layouts.transformers_config(model.size), codec_config=small_codec | {"upsample_groups": 16})
    theirs = CsmForConditionalGeneration(config).eval()
    weights = layouts.to_transformers(model.state_dict(), model.size)
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("codec_model.") or name == layouts.TIED for name in missing)
    theirs.tie_weights()
    return theirs


@pytest.mark.filterwarnings("ignore")
def test_transformers_gives_the_same_loss_on_the_same_weights() -> None:
    model, split = make_model(seed=3), make_split([9])
    theirs = their_model(model)
    batch = collate(examples_of(split), [0], depth_fraction=1.0, draw=None)
    with torch.no_grad():
        loss = model(batch)
        frames = model.embed_codes(batch.codes)
        embedded = model.embed(batch, frames)
        labels = torch.full((1, batch.max_positions, SIZE.num_codebooks), -100)
        labels[0, batch.frame_positions] = batch.codes
        out = theirs(inputs_embeds=embedded, labels=labels)
        hidden = model.backbone_hidden(embedded)
    assert (out.logits - model.codebook0_head(hidden)).abs().max() < 1e-4
    assert float(out.backbone_loss) == pytest.approx(float(loss["c0"].sum() / batch.counts["c0"].sum()), abs=1e-5)
    assert float(out.depth_decoder_loss) == pytest.approx(float(loss["depth"].sum() / batch.counts["depth"].sum()), abs=1e-5)


def test_the_way_there_and_back_changes_no_bit() -> None:
    model = make_model()
    there = layouts.to_transformers(model.state_dict(), SIZE)
    assert layouts.is_transformers_layout(there)
    assert not layouts.is_transformers_layout(model.state_dict())
    back = layouts.from_transformers({**there, "codec_model.x": torch.zeros(1)}, SIZE)
    assert set(back) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor)
    assert layouts.size_of_transformers(layouts.transformers_config(SIZE), "x") == SIZE


def test_the_permutation_matters() -> None:
    model = make_model()
    name = "backbone.layers.0.attn.q_proj.weight"
    other = layouts.to_transformers({name: model.state_dict()[name]}, SIZE)
    assert not np.array_equal(next(iter(other.values())).numpy(), model.state_dict()[name].numpy())


def test_foreign_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="surprise"):
        layouts.to_transformers({"surprise": torch.zeros(1)}, SIZE)
    with pytest.raises(ConfigError, match="surprise"):
        layouts.from_transformers({"surprise": torch.zeros(1)}, SIZE)
    with pytest.raises(ConfigError, match="vocab_size"):
        layouts.size_of_transformers({"depth_decoder_config": {}}, "config.json")
