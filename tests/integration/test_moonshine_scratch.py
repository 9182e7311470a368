"""From scratch: sentences are learned by ear, and not where they belong to other recordings."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pretokenize
import train
from tests.conftest import ROOT

OPTIONS = (
    "--train_from_scratch --model_dim 96 --model_ffn_dim 256 --model_heads 4"
    " --model_encoder_layers 2 --model_decoder_layers 1 --learning_rate 2e-3 --warmup_steps 20"
    " --lr_decay linear --batch_size 8 --n_epochs 22 --val_every 22ep --gen_every 0"
    " --save_every 0 --val_wer_clips -1 --wandb off --device cpu --threads 1"
).split()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 80 s of one core
def test_sentences_are_learned_by_ear(tmp_path: Path) -> None:
    rows = bundled_clips(tmp_path)[::2]
    texts = [row["text"] for row in rows]
    random.Random(0).shuffle(texts)
    shuffled = [{**row, "text": text} for row, text in zip(rows, texts, strict=True)]
    assert len(rows) == 124
    assert word_error_rate(tmp_path, "true", rows, rows) < 0.05
    # The same recordings with texts of others: what is written is not what is heard.
    assert word_error_rate(tmp_path, "shuffled", shuffled, rows) > 0.8


def bundled_clips(folder: Path) -> list[dict[str, Any]]:
    """Return all clips of the demo, seven voices, copied out of the folders that are its splits."""
    rows = []
    for part in ("new_voice", "old_voices"):
        source = ROOT / "demo/moonshine" / part
        for split in ("train", "val"):
            for line in (source / f"{split}.jsonl").read_text().splitlines():
                row = json.loads(line)
                path = folder / f"{len(rows):03}.ogg"
                path.write_bytes((source / row["path"]).read_bytes())
                rows.append({**row, "path": str(path)})
    return rows


def word_error_rate(
    folder: Path, name: str, trained: Sequence[dict[str, Any]], heard: Sequence[dict[str, Any]]
) -> float:
    """Train on `trained`, and return the error rate of the transcripts of `heard`."""
    tokens, run = folder / f"{name}.hdf5", folder / name
    argv = ["--family", "moonshine", "--fit_tokenizer", "420", "--output", str(tokens)]
    for split, rows in (("train", trained), ("val", heard)):
        metadata = folder / f"{name}-{split}.json"
        metadata.write_text(json.dumps(rows))
        argv += [f"--{split}_data", str(metadata)]
    assert pretokenize.main(argv) == 0
    assert train.main(["--data", str(tokens), "--output_dir", str(run), *OPTIONS]) == 0
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["val_wer"] for line in lines if line["kind"] == "val"][-1]
