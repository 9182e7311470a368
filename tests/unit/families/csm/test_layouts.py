"""CSM between Sesame's and transformers' layouts, by transformers as reference implementation."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csm_ft.errors import ConfigError
from csm_ft.families import lora
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.export.adapter import reload_adapter
from csm_ft.families.csm.export.adapter import write_adapter as export_adapter
from csm_ft.families.csm.export.probe import difference, logits_of, random_probes
from csm_ft.families.csm.weights import load_model
from tests.helpers.splits import SIZE, examples_of, make_model, make_split
from tests.helpers.theirs import their_model
from tests.unit.families.test_lora import KINDS, adapted, write_adapter, write_base


@pytest.mark.filterwarnings("ignore")
def test_loss_equals_transformers() -> None:
    model, split = make_model(seed=3), make_split([9])
    theirs = their_model(model)
    batch = collate(examples_of(split), [0], depth_fraction=1.0, draw=None)
    with torch.no_grad():
        loss = model(batch)
        frames = model.embed_codes(batch.codes)
        embedded = model.embed(batch, frames.sum(1))
        labels = torch.full((1, batch.max_positions, SIZE.num_codebooks), -100)
        labels[0, batch.frame_positions] = batch.codes
        out = theirs(inputs_embeds=embedded, labels=labels)
        hidden = model.backbone_hidden(embedded)
    assert (out.logits - model.codebook0_head(hidden)).abs().max() < 1e-4
    assert float(out.backbone_loss) == pytest.approx(
        float(loss["c0"].sum() / batch.counts["c0"].sum()), abs=1e-5
    )
    assert float(out.depth_decoder_loss) == pytest.approx(
        float(loss["depth"].sum() / batch.counts["depth"].sum()), abs=1e-5
    )


def test_round_trip_changes_no_bit() -> None:
    model = make_model()
    there = layouts.to_transformers(model.state_dict(), SIZE)
    assert layouts.is_transformers_layout(there)
    assert not layouts.is_transformers_layout(model.state_dict())
    back = layouts.from_transformers({**there, "codec_model.x": torch.zeros(1)}, SIZE)
    assert set(back) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor)
    assert layouts.size_of_transformers(layouts.transformers_config(SIZE), "x") == SIZE


def test_permutation_changes_weights() -> None:
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


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_adapters_equal_peft_on_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    """`PeftModel.from_pretrained` on the library's model, against our model with its adapters."""
    base = write_base(tmp_path / "base", seed=3)
    model = adapted(base, seed=1, **options)
    source = write_adapter(tmp_path / "adapter", model)
    target = tmp_path / "exported"
    target.mkdir()
    export_adapter(target, lora.read_adapters(source), SIZE)
    probes, plain = random_probes(SIZE), load_model(str(base))
    wanted = logits_of(model.eval(), probes)
    assert difference(wanted, logits_of(plain, probes)).c0 > 0.1, "adapters that do something"
    found = difference(wanted, reload_adapter(target, str(base), probes)[0])
    assert found.c0 < 1e-4, found
    assert found.depth < 1e-4, found


def test_unpermuted_adapters_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path / "base")
    model = adapted(base, lora_targets="q_proj,k_proj")
    source = write_adapter(tmp_path / "adapter", model)
    monkeypatch.setattr(layouts, "_rope_heads", lambda name, size: 0)
    tensors, config = layouts.adapter_to_transformers(
        load_file(source / lora.WEIGHTS), json.loads((source / lora.CONFIG).read_text()), SIZE
    )
    monkeypatch.undo()
    save_file(tensors, tmp_path / lora.WEIGHTS)
    (tmp_path / lora.CONFIG).write_text(json.dumps(config))
    found = difference(
        logits_of(model, random_probes(SIZE)),
        reload_adapter(tmp_path, str(base), random_probes(SIZE))[0],
    )
    assert not found.is_same


def test_pattern_matches_adapted_modules_only() -> None:
    modules = [
        f"base_model.model.{m}.lora_A.weight"
        for m in (
            *(f"backbone.layers.{i}.attn.{p}_proj" for i in range(2) for p in "qk"),
            "backbone.layers.1.mlp.w1",
            "decoder.layers.0.attn.q_proj",
            "codebook0_head",
        )
    ]
    config = layouts.adapter_to_transformers(
        {name: torch.zeros(1, 1) for name in modules}, {"layers_to_transform": [1]}, SIZE
    )[1]
    theirs = their_model(make_model())
    matched = [
        name for name, _ in theirs.named_modules() if re.fullmatch(config["target_modules"], name)
    ]
    assert matched == [
        "lm_head",
        *(f"backbone_model.layers.0.self_attn.{p}_proj" for p in "qk"),
        *(
            f"backbone_model.layers.1.{m}"
            for m in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj")
        ),
        "depth_decoder.model.layers.0.self_attn.q_proj",
    ]
    assert config["layers_to_transform"] is None, "the pattern says it"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "base_model.model.text_embeddings.lora_embedding_A",
            "lora_embedding_A is not a LoRA adapter",
        ),
        ("base_model.model.somewhere.lora_A.weight", "somewhere.* not a LoRA adapter"),
    ],
)
def test_adapters_without_a_counterpart_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layouts.adapter_to_transformers({name: torch.zeros(1, 1)}, {}, SIZE)


def test_patterns_of_ranks_name_the_other_layouts_modules() -> None:
    modules = {
        "backbone.layers.0.attn.q_proj": "backbone_model.layers.0.self_attn.q_proj",
        "backbone.layers.1.attn.q_proj": "backbone_model.layers.1.self_attn.q_proj",
        "projection": "depth_decoder.model.inputs_embeds_projector",
    }
    tensors = {f"base_model.model.{name}.lora_A.weight": torch.zeros(2, 1) for name in modules}
    given = {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {r"layers\.1\.attn\.q_proj": 8}}
    _, config = layouts.adapter_to_transformers(tensors, {"r": 2, **given}, SIZE)
    theirs = [re.escape(name) for name in modules.values()]
    assert config["rank_pattern"] == {theirs[0]: 5, theirs[1]: 5}
    assert config["alpha_pattern"] == {theirs[1]: 8}
