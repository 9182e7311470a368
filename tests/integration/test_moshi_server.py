"""The server of the moshi package talks with the exported base of the demo."""

import json
from pathlib import Path

import numpy as np
import pytest

import pretokenize
import train
from csm_ft.export.__main__ import main as export
from csm_ft.families.moshi.export.package import is_installed
from tests.conftest import ROOT
from tests.helpers.dialogues import write_dialogues
from tests.helpers.moshi_server import FRAME_SAMPLES, RATE_HZ, serving, talk, write_mimi

DEMO = ROOT / "demo/moshi"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base as weights, and adapters for it, both with a tiny Mimi."""
    folder = tmp_path_factory.mktemp("moshi")
    for name in ("train", "val"):
        write_dialogues(folder, name, 1)
    data = [f"--{name}_data={folder / f'{name}.jsonl'}" for name in ("train", "val")]
    tokens, run = folder / "tokens.hdf5", folder / "run"
    codec = ["--codec", "melrvq", "--tokenizer", str(DEMO / "tokenizer.model")]
    argv = ["--family", "moshi", *codec, *data, "--output", str(tokens)]
    assert pretokenize.main(argv) == 0
    argv = ["--data", str(tokens), "--output_dir", str(run), "--device", "cpu", "--max_steps", "2"]
    argv += ["--model_name_or_checkpoint_path", str(DEMO / "base"), "--val_window_sec", "10"]
    argv += ["--method", "lora", "--lora_rank", "4", "--lora_alpha", "8", "--window_sec", "10"]
    assert train.main([*argv, "--gen_every", "0", "--wandb", "off"]) == 0
    found = {"moshi": folder / "whole", "moshi-lora": folder / "adapters"}
    sources = {"moshi": DEMO / "base", "moshi-lora": run}
    for layout, output in found.items():
        assert export([str(sources[layout]), "--format", layout, "--output", str(output)]) == 0
        config = json.loads((output / "config.json").read_text())
        # Random codes make no words likely: the text is drawn nearly evenly.
        config |= write_mimi(folder, config["card"]) | {"lm_gen_config": {"temp_text": 5.0}}
        (output / "config.json").write_text(json.dumps(config))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="the moshi package is not installed")
@pytest.mark.parametrize("layout", ["moshi", "moshi-lora"])
def test_server_answers_with_sound_and_text(
    exports: dict[str, Path], layout: str, tmp_path: Path
) -> None:
    folder, weights = exports[layout], exports["moshi"] / "model.safetensors"
    argv = ["--config-path", str(folder / "config.json"), "--moshi-weight", str(weights)]
    argv += ["--tokenizer", str(DEMO / "tokenizer.model")]
    if layout == "moshi-lora":
        argv += ["--lora-weight", str(folder / "lora.safetensors")]
    time_sec = np.arange(RATE_HZ + 8 * FRAME_SAMPLES) / RATE_HZ
    wave = (0.3 * np.sin(2 * np.pi * 200 * time_sec)).astype(np.float32)
    with serving(argv, tmp_path / "server.txt") as url:
        sound, text = talk(url, wave)
    assert len(sound) >= RATE_HZ
    assert np.abs(sound).max() > 0
    assert text.strip()
