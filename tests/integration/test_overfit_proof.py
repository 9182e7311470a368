"""The end-to-end proof: overfitted clips, sampled, must be recognised as the right sentences.

It goes through everything: metadata, audio, codec, tokens, batches, loss, optimiser, checkpoint,
sampling, codec, wav.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pretokenize
import train
from csm_ft.data.audio import load
from csm_ft.data.token_file import open_store
from csm_ft.families import open_family
from csm_ft.families.base import Prompt, SamplingOptions
from tests.helpers.recognise import recognise

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 8
NUM_CANDIDATES = 20


def equal_share(codes: NDArray[np.uint16], others: NDArray[np.uint16]) -> float:
    """Return the share of frames that are equal; a longer one counts as different."""
    num_shared = min(len(codes), len(others))
    is_equal = (codes[:num_shared] == others[:num_shared]).all(axis=1)
    return float(is_equal.sum() / max(len(codes), len(others)))


@pytest.mark.slow
@pytest.mark.timeout(900)  # seven minutes where other programs take the cores, too
def test_overfitted_clips_are_recognised(tmp_path: Path) -> None:
    rows = [r for r in json.loads((ROOT / "demo/new_voice/train.json").read_text()) if r["text"]]
    candidates = list(dict.fromkeys(row["text"] for row in rows))[:NUM_CANDIDATES]
    chosen = [next(row for row in rows if row["text"] == text) for text in candidates[:NUM_CLIPS]]
    for row in chosen:
        row["path"] = str((ROOT / "demo/new_voice" / row["path"]).resolve())
    metadata, tokens, run = (tmp_path / name for name in ("clips.json", "tokens.hdf5", "run"))
    metadata.write_text(json.dumps(chosen))
    data = ["--train_data", str(metadata), "--val_data", str(metadata), "--output", str(tokens)]
    assert pretokenize.main([*data, "--codec", "melrvq"]) == 0
    options = (
        "--max_steps 120 --batch_size 8 --learning_rate 2e-3 --depth_fraction 1 --weight_decay 0"
        " --val_every 0 --gen_every 0 --wandb off"
    )
    assert train.main(["--data", str(tokens), "--output_dir", str(run), *options.split()]) == 0

    store, family = open_store(tokens), open_family("csm")
    split, encoder = store.splits["train"], family.open_encoder(store, "cpu")
    model = family.load_model(str(run))
    clips = [split.clip(i) for i in range(len(split))]
    prompts = [Prompt(clip.id, clip.text, clip.speaker) for clip in clips]
    samples = model.sample(prompts, encoder, SamplingOptions(max_sec=8.0))

    assert all(sample.is_complete for sample in samples), "every clip stops by its EOS frame"
    rate_hz = encoder.sample_rate_hz
    same, heard = [], {"original": [], "codec": [], "model": []}
    for index, sample in enumerate(samples):
        same.append(equal_share(sample.arrays["codes"], split.array("codes", index)))
        waves = {
            "original": load(Path(chosen[index]["path"]), sample_rate_hz=rate_hz),
            "codec": encoder.decode(split.arrays(index)),
            "model": encoder.decode(sample.arrays),
        }
        for name, wave in waves.items():
            heard[name].append(recognise(wave, rate_hz, candidates))
    texts = [prompt.text for prompt in prompts]
    right = {
        name: np.mean([a == b for a, b in zip(words, texts, strict=True)])
        for name, words in heard.items()
    }
    shuffled = np.mean([a == b for a, b in zip(heard["model"], texts[1:] + texts[:1], strict=True)])
    print(
        f"recognised {right}, against shuffled texts {shuffled:.2f}, frames equal to the training"
        f" codes {np.mean(same):.2f}"
    )
    assert right["codec"] >= 0.8
    assert right["model"] >= 0.8
    assert shuffled <= 0.2
    assert np.mean(same) > 0.5, "greedy codes equal the training codes on most frames"
