"""Our Moonshine against outputs that the original Keras code computed."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.model import empty_model
from csm_ft.families.moonshine.size import MoonshineSize

FOLDER = Path(__file__).parent
GOLDEN = load_file(FOLDER / "golden_moonshine_tiny.safetensors")
CONFIG = json.loads((FOLDER / "golden_moonshine_tiny.json").read_text())["config"]


def test_states_and_logits_equal_the_original() -> None:
    size = MoonshineSize.from_json({"model_type": "moonshine", **CONFIG}, "golden")
    model = empty_model(size)
    weights = {k.removeprefix("weights."): v for k, v in GOLDEN.items() if k.startswith("weights.")}
    model.load_state_dict(weights, assign=True)
    sound, ids = GOLDEN["in.input_values"][0], GOLDEN["in.decoder_input_ids"][0]
    batch = collate_clips([np.zeros(len(sound), np.int16)], [np.zeros(len(ids), np.uint32)])
    batch.samples[: len(sound)] = sound
    batch.inputs = ids.long()
    with torch.no_grad():
        torch.testing.assert_close(
            model.encoder(batch), GOLDEN["out.encoder"][0], rtol=0, atol=2e-5
        )
        torch.testing.assert_close(model.logits(batch), GOLDEN["out.logits"][0], rtol=0, atol=2e-5)
