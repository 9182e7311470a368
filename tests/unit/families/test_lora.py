"""Adapters: saved as peft saves them, taken back and merged, or refused with the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from csm_ft.config.base import build
from csm_ft.errors import ConfigError
from csm_ft.families import lora
from csm_ft.families.csm.config import CsmConfig, lora_modules
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.weights import load_model
from csm_ft.runs.checkpoint import save_weights
from csm_ft.training.optim import build_optimizer, choose_parameters
from tests.helpers.splits import SIZE, examples_of, make_model, make_split
from tests.helpers.theirs import their_model

BATCH = collate(examples_of(make_split([5, 9, 3])), [0, 1, 2], depth_fraction=1.0, draw=None)
KINDS = [
    {},
    {"lora_alpha": 7, "lora_rslora": True},
    {"lora_dora": True},
    {"lora_targets": "q_proj,w2,projection,codebook0_head"},
    {"decoder_lr_factor": 0},
]


def adapted(base: Path, seed: int = 0, **options: Any) -> CsmModel:
    """The model of `base` with adapters that do something."""
    model = load_model(str(base))
    config = CsmConfig.model_validate(
        {"method": "lora", "lora_rank": 3, "model_name_or_checkpoint_path": str(base), **options}
    )
    choose_parameters(model, CsmFamily(), config)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def write_base(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    save_weights(folder, make_model(seed), SIZE.to_json())
    return folder


def write_adapter(folder: Path, model: CsmModel) -> Path:
    folder.mkdir()
    save_weights(folder, model, SIZE.to_json())
    return folder


def losses(model: CsmModel) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([*model(BATCH).values()])


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_merged_adapters_score_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    base = write_base(tmp_path / "base")
    model = adapted(base, **options)
    plain, wanted = losses(load_model(str(base))), losses(model)
    assert (plain - wanted).abs().max() > 0.1, "adapters that do something"
    folder = write_adapter(tmp_path / "adapter", model)
    merged = load_model(str(folder))
    torch.testing.assert_close(losses(merged), wanted, atol=1e-4, rtol=1e-5)
    assert set(merged.state_dict()) == set(make_model().state_dict()), (
        "nothing of the adapters is left"
    )
    assert not lora.has_adapters(merged)
    assert all(p.requires_grad for p in merged.parameters())
    assert losses(adapted(folder)).isfinite().all(), "adapters can be trained on top of merged ones"


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_peft_reads_our_adapters(tmp_path: Path, options: dict[str, Any]) -> None:
    base = write_base(tmp_path / "base")
    model = adapted(base, **options)
    folder = write_adapter(tmp_path / "adapter", model)
    theirs = PeftModel.from_pretrained(load_model(str(base)), str(folder))
    torch.testing.assert_close(losses(theirs.base_model.model), losses(model), atol=1e-5, rtol=1e-6)
    assert json.loads((folder / lora.CONFIG).read_text())["base_model_name_or_path"] == str(base)
    assert {p.name for p in folder.iterdir()} == {lora.WEIGHTS, lora.CONFIG, "config.json"}, (
        "no weights of the base"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 7},
        {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {r"layers\.1\.self_attn\.k_proj": 32}},
        {"modules_to_save": ["lm_head", "embed_text_tokens"]},
    ],
    ids=str,
)
def test_transformers_adapters_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    """As notebooks make them: a list of names, which puts some on the codec, too."""
    base = write_base(tmp_path / "base")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    theirs = get_peft_model(
        their_model(make_model(0)), LoraConfig(r=3, target_modules=names, **options)
    )
    assert any("codec_model" in name and "lora_A" in name for name, _ in theirs.named_parameters())
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if ("lora_B" in name and "codec_model" not in name) or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(str(tmp_path / "adapter"))
    config = tmp_path / "adapter" / lora.CONFIG
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)})
    )
    ours = load_model(str(tmp_path / "adapter"))
    embedded = torch.randn(1, 12, SIZE.backbone.dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden = ours.backbone_hidden(embedded)
        depth = ours.depth_logits(
            hidden[0],
            frames := ours.embed_codes(torch.ones(12, SIZE.num_codebooks, dtype=torch.long)),
        )
        labels = torch.full((1, 12, SIZE.num_codebooks), -100)
        labels[0, 1:] = 1
        out = theirs(inputs_embeds=embedded, labels=labels)
    assert (out.logits - ours.codebook0_head(hidden)).abs().max() < 1e-4
    assert frames.shape[0] == 12
    assert (
        out.depth_decoder_logits.view(11, -1, SIZE.audio_vocab_size) - depth[:11]
    ).abs().max() < 1e-4
    text_embeddings = dict(theirs.named_parameters()) if "modules_to_save" in options else {}
    for name, tensor in text_embeddings.items():
        if "embed_text_tokens.modules_to_save" in name:
            assert torch.equal(tensor, ours.text_embeddings.weight)
    plain = load_model(str(base))
    assert (plain.codebook0_head(plain.backbone_hidden(embedded)) - out.logits).abs().max() > 0.1, (
        "adapters that do something"
    )


def test_adapters_of_the_codec_are_refused() -> None:
    config = {"peft_type": "LORA"}
    name = (
        "base_model.model.codec_model.encoder_transformer.layers.0.self_attn.q_proj.lora_B.weight"
    )
    with pytest.raises(ConfigError, match="an adapter of the codec"):
        layouts.adapter_from_transformers({name: torch.ones(2, 2)}, config, SIZE)
    assert layouts.adapter_from_transformers({name: torch.zeros(2, 2)}, config, SIZE)[0] == {}
    with pytest.raises(ConfigError, match="neither a LoRA adapter"):
        layouts.adapter_from_transformers(
            {"base_model.model.nothing.weight": torch.ones(2)}, config, SIZE
        )


def test_copies_of_the_audio_embeddings_must_be_equal() -> None:
    names = [f"base_model.model.{name}" for name in (layouts.AUDIO_EMBEDDINGS, layouts.TIED)]
    config = {"peft_type": "LORA", "modules_to_save": ["embed_audio_tokens"]}
    same = dict.fromkeys(names, torch.ones(4, 2))
    found, _ = layouts.adapter_from_transformers(same, config, SIZE)
    assert [*found] == ["base_model.model.audio_embeddings.weight"]
    with pytest.raises(ConfigError, match="differs from the other copy"):
        layouts.adapter_from_transformers({**same, names[1]: torch.zeros(4, 2)}, config, SIZE)
    with pytest.raises(ConfigError, match="surprise"):
        layouts.adapter_from_transformers(
            {"base_model.model.surprise.lora_A.weight": torch.ones(2, 2)}, config, SIZE
        )


def test_only_new_adapters_are_trained(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    model = load_model(str(base))
    before = losses(model)
    config = CsmConfig.model_validate(
        {"method": "lora", "lora_rank": 3, "lora_lr_factor": 2, "backbone_lr_factor": 0.5}
    )
    choose_parameters(model, CsmFamily(), config)
    # Projections with adapters are products by themselves, which sum in another order.
    torch.testing.assert_close(losses(model), before, rtol=1e-6, atol=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    groups = build_optimizer(model, CsmFamily(), config).param_groups
    assert {g["lr_factor"] for g in groups} == {1.0, 2.0}
    again = load_model(str(base))
    choose_parameters(again, CsmFamily(), config)
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), f"{name}: the same seed, the same adapters"


def test_where_adapters_go() -> None:
    def modules(**options: Any) -> set[str]:
        model = make_model()
        choose_parameters(
            model, CsmFamily(), CsmConfig.model_validate({"method": "lora", **options})
        )
        return {
            name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name
        }

    everywhere = modules()
    assert len(everywhere) == 3 * 7
    assert modules(lora_targets="attention") == {name for name in everywhere if ".attn." in name}
    assert modules(lora_targets="v_proj, projection") == {
        name for name in everywhere if "v_proj" in name
    } | {"projection"}
    assert modules(decoder_lr_factor=0) == {
        name for name in everywhere if name.startswith("backbone")
    }
    assert modules(lora_targets="mlp,codebook0_head", backbone_lr_factor=0) == {
        *(name for name in everywhere if name.startswith("decoder") and ".mlp." in name),
        "codebook0_head",
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("o_proj", "output_proj"),
        ("gate_proj,up_proj,down_proj", "w1,w3,w2"),
        ("self_attn.o_proj,mlp.gate_proj", "output_proj,w1"),
        ("attn.q_proj,lm_head", "q_proj,codebook0_head"),
        ("inputs_embeds_projector,o_proj,output_proj", "projection,output_proj"),
    ],
)
def test_targets_take_any_layouts_names(theirs: str, ours: str) -> None:
    patterns = [
        lora_modules(build(CsmConfig, {"method": "lora", "lora_targets": words}))
        for words in (theirs, ours)
    ]
    assert patterns[0] == patterns[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_targets": "attn"}, "'attn' is none of attention, mlp"),
        ({"lora_targets": ""}, "none of attention"),
        (
            {"lora_targets": "attention", "backbone_lr_factor": 0, "decoder_lr_factor": 0},
            "nothing is left",
        ),
        ({"lora_rank": 0}, "lora_rank 0"),
        ({"lora_dropout": 1.0}, "lora_dropout 1.0"),
        ({"train_from_scratch": True}, "train_from_scratch has none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(CsmConfig, {"method": "lora", **options})


def test_adapters_have_their_own_default_rate() -> None:
    assert CsmConfig().learning_rate == 3e-5
    assert CsmConfig.model_validate({"method": "lora"}).learning_rate == 1.5e-4
    assert CsmConfig.model_validate({"method": "lora", "learning_rate": 1e-5}).learning_rate == 1e-5


def test_dropout_depends_on_its_key_only(tmp_path: Path) -> None:
    model = adapted(write_base(tmp_path / "base"), lora_dropout=0.5).train()

    def dropped(*key: int) -> torch.Tensor:
        lora.seed_dropout(*key)
        return losses(model)

    first = dropped(0, 5, 1)
    assert torch.equal(dropped(0, 5, 1), first)
    for key in ((1, 5, 1), (0, 6, 1), (0, 5, 0)):
        assert not torch.equal(dropped(*key), first)
    assert torch.equal(losses(model.eval()), losses(model)), "off in evaluation"


def edit_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / lora.WEIGHTS)
    change(tensors)
    with safe_open(folder / lora.WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, folder / lora.WEIGHTS, metadata=metadata)


def spoil(folder: Path, base: Path, how: str) -> None:
    path, config = folder / lora.WEIGHTS, folder / lora.CONFIG
    values = json.loads(config.read_text())
    name = next(iter(load_file(path)))
    match how:
        case "tensor missing":
            edit_tensors(folder, lambda tensors: tensors.pop(name))
        case "tensor unknown":
            edit_tensors(folder, lambda tensors: tensors.update(surprise=torch.zeros(1)))
        case "other shape":
            edit_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(7, 7)}))
        case "half a file":
            path.write_bytes(path.read_bytes()[:1000])
        case "no config":
            config.unlink()
        case "config no json":
            config.write_text("{")
        case "another method":
            config.write_text(json.dumps(values | {"peft_type": "IA3"}))
        case "other modules":
            config.write_text(json.dumps(values | {"target_modules": ["nothing_like_it"]}))
        case "base is gone":
            config.write_text(
                json.dumps(values | {"base_model_name_or_path": str(folder / "gone")})
            )
        case "base trained further":
            save_weights(base, make_model(seed=9), SIZE.to_json())
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("tensor missing", "1 tensors missing.*name the right base"),
        ("tensor unknown", "1 unknown.*surprise"),
        ("other shape", r"\(7, 7\).*another size"),
        ("half a file", "not readable as adapters"),
        ("no config", "not readable as a LoRA configuration.*fetch"),
        ("config no json", "not readable as a LoRA configuration.*fetch"),
        ("another method", "'IA3'; only LORA"),
        ("other modules", "does not fit the base"),
        ("base is gone", "cannot be loaded; put it there, or correct"),
        ("base trained further", "trained on other base weights"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, how: str, message: str) -> None:
    base = write_base(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", adapted(base))
    load_model(str(folder))
    spoil(folder, base, how)
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(str(folder))
    assert str(tmp_path) in str(caught.value)
