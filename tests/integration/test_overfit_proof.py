"""The end-to-end proof.

A handful of clips, overfitted, must be spoken so that a recogniser hears the right sentences.

It goes through everything: metadata, audio, codec, tokens, batches, loss, optimiser, checkpoint,
sampling, codec, wav.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import pretokenize
import train
from csm_ft.codecs import from_store
from csm_ft.data.audio import load
from csm_ft.data.token_file import open_store
from csm_ft.families.base import Prompt, SamplingOptions
from csm_ft.families.csm.encoder import tokenizer_from_store
from csm_ft.families.csm.weights import load_model
from tests.helpers.recognise import recognise

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 8
NUM_CANDIDATES = 20


@pytest.mark.slow
def test_overfitted_clips_are_spoken_recognised_and_stopped(tmp_path: Path) -> None:
    rows = [r for r in json.loads((ROOT / "demo/new_voice/train.json").read_text()) if r["text"]]
    candidates = list(dict.fromkeys(row["text"] for row in rows))[:NUM_CANDIDATES]
    chosen = [next(row for row in rows if row["text"] == text) for text in candidates[:NUM_CLIPS]]
    for row in chosen:
        row["path"] = str((ROOT / "demo/new_voice" / row["path"]).resolve())
    metadata = tmp_path / "clips.json"
    metadata.write_text(json.dumps(chosen))
    tokens, run = tmp_path / "tokens.hdf5", tmp_path / "run"
    assert (
        pretokenize.main(
            [
                "--train_data",
                str(metadata),
                "--val_data",
                str(metadata),
                "--output",
                str(tokens),
                "--codec",
                "melrvq",
            ]
        )
        == 0
    )
    options = (
        "--max_steps 120 --batch_size 8 --learning_rate 2e-3 --depth_fraction 1 --weight_decay 0"
        " --val_every 0 --gen_every 0 --wandb off"
    )
    assert train.main(["--data", str(tokens), "--output_dir", str(run), *options.split()]) == 0

    store = open_store(tokens)
    split, codec = store.splits["train"], from_store(store)
    model = load_model(str(run))
    prompts = [
        Prompt(split.ids[i], split.clip(i).text, split.clip(i).speaker) for i in range(len(split))
    ]
    greedy = SamplingOptions(max_frames=100, temperature=0.0, topk=0, seed=0)
    samples = model.sample(prompts, tokenizer=tokenizer_from_store(store), options=greedy)

    assert all(sample.stopped_by_eos for sample in samples), "every clip stops by its EOS frame"
    same = [
        (
            (a.codes[: len(b)] == b[: len(a.codes)]).all(axis=1).sum() / max(len(a.codes), len(b))
            if len(a.codes)
            else 0.0
        )
        for a, b in ((s, split.codes(i)) for i, s in enumerate(samples))
    ]
    heard = {"original": [], "codec": [], "model": []}
    for index, sample in enumerate(samples):
        original = load(Path(chosen[index]["path"]), sample_rate_hz=codec.sample_rate_hz)
        waves = {
            "original": original,
            "codec": codec.decode(split.codes(index)),
            "model": codec.decode(sample.codes),
        }
        for name, wave in waves.items():
            heard[name].append(recognise(wave, codec.sample_rate_hz, candidates))
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
