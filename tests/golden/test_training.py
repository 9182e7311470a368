"""Ten optimiser steps: the committed losses, whatever is trained.

And the same losses from transformers' model, peft and torch's own AdamW.

`python -m tests.golden.test_training` writes training_losses.json anew, after a change that is
meant to change them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

import train
from csm_ft.data.token_file import write_store
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.model import SpeechModel
from csm_ft.runs.checkpoint import save_weights
from csm_ft.training.optim import choose_parameters
from tests.helpers.splits import INFO, SIZE, examples_of, make_model, make_split
from tests.helpers.theirs import their_model

GOLDEN = Path(__file__).parent / "training_losses.json"
FRAMES = [12, 5, 30, 1, 17, 9, 22, 3, 14, 8, 6, 11]
NUM_STEPS = 10
RUNS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "lora_rank": 4, "lora_dropout": 0.1, "learning_rate": 3e-3},
    "lora_rslora_dora": {
        "method": "lora",
        "lora_rank": 4,
        "lora_rslora": True,
        "lora_dora": True,
        "learning_rate": 3e-3,
    },
    "depth_only": {"method": "depth_only"},
    "rates": {
        "backbone_lr_factor": 0.3,
        "decoder_lr_factor": 2.0,
        "embeddings_lr_factor": 0.0,
        "heads_lr_factor": 0.5,
    },
    "last_turns": {"loss_turns": "last"},
    "schedulefree": {"optimizer": "schedulefree"},
}


def train_losses(folder: Path, **options: Any) -> list[float]:
    """Train on random clips (in conversations of three turns, where turns matter).

    Return the loss of each step.
    """
    folder.mkdir(exist_ok=True)
    places: dict[str, Any] = {}
    if "loss_turns" in options:
        places["conversations"] = [str(i // 3) for i in range(len(FRAMES))]
        places["turns"] = [i % 3 for i in range(len(FRAMES))]
    split = make_split(FRAMES, **places)
    base, data = folder / "base", folder / "tokens.hdf5"
    base.mkdir()
    save_weights(base, make_model(seed=1), SIZE.to_json())
    write_store(data, INFO, {"train": split, "val": split})
    paths = {
        "data": str(data),
        "output_dir": str(folder / "run"),
        "model_name_or_checkpoint_path": str(base),
    }
    quiet = {
        "gen_every": "0",
        "val_every": "0",
        "measure_base": False,
        "log_every": "1",
        "wandb": "off",
    }
    exact = {
        "device": "cpu",
        "dtype": "fp32",
        "threads": 1,
        "max_steps": NUM_STEPS,
        "warmup_steps": "0",
        "lr_decay": "constant",
    }
    sizes = {"batch_size": 4, "depth_fraction": 0.25, "learning_rate": 1e-3}
    config = CsmConfig.model_validate({**paths, **quiet, **exact, **sizes, **options})
    train.run(config)
    rows = [
        json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize("name", RUNS)
def test_ten_losses_are_the_committed_ones(tmp_path: Path, name: str) -> None:
    losses = train_losses(tmp_path, **RUNS[name])
    assert len(losses) == NUM_STEPS
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-5)


def test_every_option_changes_the_losses() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len({tuple(golden[name]) for name in RUNS}) == len(RUNS)
    # What depth_only learns in ten steps is less than frames that are drawn differ.
    learning = [
        losses for name, losses in golden.items() if name not in ("last_turns", "depth_only")
    ]
    assert all(losses[-1] < losses[0] for losses in learning), "they learn"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["full", "lora", "lora_rslora_dora"])
def test_transformers_and_peft_lose_the_same(tmp_path: Path, name: str) -> None:
    """One batch of all clips, every frame: another model, other adapters and another loop."""
    options = {**RUNS[name], "lora_dropout": 0.0, "batch_size": len(FRAMES), "depth_fraction": 1.0}
    ours = train_losses(tmp_path, **options)
    assert their_losses(
        CsmConfig.model_validate({"learning_rate": 1e-3, **options})
    ) == pytest.approx(ours, rel=1e-5)


def their_losses(config: CsmConfig) -> list[float]:
    start = make_model(seed=1)
    model = their_model(start).train()
    trained: Any = model
    if config.method == "lora":
        trained = with_adapters_of(start, model, config)
    decayed, free = [], []
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad and not name.startswith("codec_model"):
            (
                free
                if parameter.ndim == 1 or "embed_t" in name or "embed_audio" in name
                else decayed
            ).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8
    )
    losses = []
    for _ in range(NUM_STEPS):
        embedded, labels = inputs(model)
        out = trained(inputs_embeds=embedded, labels=labels)
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for g in groups for p in g["params"]], config.max_grad_norm
        )
        optimizer.step()
        losses.append(out.loss.item())
    return losses


def inputs(model: Any) -> tuple[Tensor, Tensor]:
    """All clips as transformers takes them, embedded with its own tables; right padding."""
    batch = collate(
        examples_of(make_split(FRAMES)), range(len(FRAMES)), depth_fraction=1.0, draw=None
    )
    count = batch.num_sequences * batch.max_positions
    flat = torch.zeros(count, model.config.hidden_size)
    flat = flat.index_copy(0, batch.text_positions, model.embed_text_tokens(batch.text_tokens))
    flat = flat.index_copy(
        0, batch.frame_positions, model.backbone_model.embed_tokens(batch.codes[None])[0]
    )
    labels = torch.full((count, SIZE.num_codebooks), -100)
    labels[batch.frame_positions] = batch.codes
    return flat.view(batch.num_sequences, batch.max_positions, -1), labels.view(
        batch.num_sequences, batch.max_positions, -1
    )


def with_adapters_of(start: SpeechModel, model: Any, config: CsmConfig) -> Any:
    """Put peft's adapters on transformers' model, beginning where ours begin.

    B is zero, so only A counts.
    """
    choose_parameters(start, CsmFamily(), config)
    modules = r"(backbone_model|depth_decoder\.model)\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=32,
        target_modules=modules,
        use_rslora=config.lora_rslora,
        use_dora=config.lora_dora,
    )
    adapted = get_peft_model(model, lora)
    theirs = dict(adapted.named_parameters())
    num_copied = 0
    for name, parameter in start.named_parameters():
        if ".lora_A." in name:
            module, _, rest = name.partition(".lora_A.")
            other = layouts._other_name(
                f"{module}.weight", layouts._TOP, layouts._STACKS, layouts._LAYER
            )
            assert other is not None
            theirs[f"base_model.model.{other.removesuffix('.weight')}.lora_A.{rest}"].data.copy_(
                parameter.data
            )
            num_copied += 1
    assert num_copied == sum(".lora_A." in name for name in theirs)
    return adapted


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as parent:
        found = {
            name: train_losses(Path(parent) / name, **options) for name, options in RUNS.items()
        }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
