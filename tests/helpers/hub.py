"""The hub's cache with Mimi and CSM-1B: real names and formats, small random weights, no network.

What the two models' widths do not touch is as published: 24 kHz, 12.5 frames a second, 32 codebooks
of 2048 codes (2051 ids), 128,256 text ids. So token files fit, and the product's own loading code
finds, reads and checks everything.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import MimiConfig, MimiModel

from csm_ft.families.csm.model import random_model
from csm_ft.families.csm.size import CsmSize, TransformerSize

ROOT = Path(__file__).resolve().parents[2]
REVISION = "0123456789abcdef0123456789abcdef01234567"
MIMI = MimiConfig(
    hidden_size=32,
    num_filters=4,
    num_hidden_layers=1,
    intermediate_size=32,
    num_attention_heads=2,
    num_key_value_heads=2,
    codebook_size=2048,
    codebook_dim=16,
    vector_quantization_hidden_dimension=16,
    num_quantizers=32,
    upsample_groups=32,  # must divide the width
)
CSM = CsmSize(
    backbone=TransformerSize(layers=1, heads=2, kv_heads=1, dim=16, ffn_dim=24),
    decoder=TransformerSize(layers=1, heads=2, kv_heads=1, dim=16, ffn_dim=24),
    text_vocab_size=128_256,
    audio_vocab_size=2051,
    num_codebooks=32,
)
# config.json on the hub serves transformers, too; its keys are of no concern to Sesame's layout.
FOREIGN_KEYS = {
    "architectures": ["CsmForConditionalGeneration"],
    "model_type": "csm",
    "audio_token_id": 128002,
    "audio_eos_token_id": 128003,
    "codebook_pad_token_id": 2050,
    "codebook_eos_token_id": 0,
    "depth_decoder_config": {"model_type": "csm_depth_decoder_model"},
    "codec_config": {"model_type": "mimi"},
    "transformers_weights": "transformers.safetensors.index.json",
}


def make_hub_cache(cache: Path) -> Path:
    """Fill and return `cache` (HF_HUB_CACHE), with kyutai/mimi and sesame/csm-1b as downloaded."""
    torch.manual_seed(0)
    mimi = MimiModel(MIMI)
    for name, buffer in mimi.named_buffers():
        if name.endswith("embed_sum"):
            buffer.normal_()  # all zero otherwise, and every code were 0
    mimi.save_pretrained(_snapshot(cache, "kyutai/mimi"))
    csm = _snapshot(cache, "sesame/csm-1b")
    save_file(_speak_briefly(random_model(CSM, seed=0).state_dict()), csm / "model.safetensors")
    (csm / "config.json").write_text(json.dumps(CSM.to_json() | FOREIGN_KEYS))
    shutil.copy(ROOT / "demo/tokenizer.json", csm / "tokenizer.json")
    return cache


def environment(cache: Path) -> Mapping[str, str]:
    """Return what a process needs to find this cache, and nothing beyond it."""
    return {"HF_HOME": str(cache.parent), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache, made once."""
    return make_hub_cache(tmp_path_factory.mktemp("huggingface") / "hub")


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache as this process and its children see the hub."""
    for name, value in environment(hub_cache).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache)
    )  # read from the environment on import only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return hub_cache


def _speak_briefly(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make every fifth frame or so the EOS frame (all codes 0).

    Random weights never say it, and would speak up to the cap. So dimension 0 is made a constant, which the heads read as a preference for code 0: slight in
    codebook 0, strong after it.
    """
    for name in ("text_embeddings.weight", "audio_embeddings.weight"):
        weights[name][:, 0] = 10.0  # far above what a layer adds
    weights["projection.weight"][0] = 0.0
    weights["projection.weight"][0, 0] = 5.0  # sees 4 after the last norm
    weights["codebook0_head.weight"][0, 0] = 0.6  # times 4, too
    weights["audio_head"][:, 0, 0] = 4.0
    return weights


def _snapshot(cache: Path, name: str) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return folder
