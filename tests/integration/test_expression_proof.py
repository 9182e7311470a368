"""The proof of expression: tags move pitch, level and rate, on bundled synthetic speech.

The steps of `python -m csm_ft.expressive` do all of it, from recordings to weights. Five emotions
are acted on the bundled clips of nora by changing pitch, rate and level, three times each, as no
actor says a sentence twice alike. A tag counts when all three measures of its new sentences differ
from the untagged ones in the direction that it was acted in, each for 80 % of the sentences.
Sentences are compared by medians over takes; pitch is that of DIO, which is fast.

What made slow tags obeyed is in LOG.md, 2026-11-27.
"""

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pretokenize
import train
from csm_ft.config.base import build
from csm_ft.data import audio
from csm_ft.data.audio import Wave
from csm_ft.data.pitch import LEAST_FRAMES, find_voiced
from csm_ft.data.token_file import open_store
from csm_ft.evaluate.prosody import measure_energy, measure_rate
from csm_ft.expressive.__main__ import _plan
from csm_ft.expressive.config import ExpressiveConfig
from csm_ft.expressive.steps import Steps
from csm_ft.families import open_family
from csm_ft.families.base import Prompt, SamplingOptions
from tests.conftest import ROOT
from tests.helpers.acting import Manner, act, analyse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first test trains for all
    # A sentence without a voiced take has no pitch, and counts as wrong.
    pytest.mark.filterwarnings("ignore:All-NaN slice"),
]
ACTED = {
    "angry": Manner(semitones=5, rate=1.5, level_db=6),
    "calm": Manner(semitones=-3, rate=0.6, level_db=-7),
    "fearful": Manner(semitones=6, rate=1.6, level_db=-6),
    "happy": Manner(semitones=8, rate=1.4, level_db=5),
    "sad": Manner(semitones=-4, rate=0.5, level_db=-4),
}
PLAIN = Manner(semitones=0, rate=1, level_db=0)
VOICE = ROOT / "demo/new_voice"
MEASURES = ("f0_st", "energy_mean_db", "letters_per_sec")
NUM_COPIES = 3
NUM_TAKES = 4
RIGHT_SHARE = 0.8
MIN_OBEYED = 4  # tags
VOICE_ONLY = {"n_epochs": 8, "batch_size": 8}
ACTING = {"n_epochs": 4, "batch_size": 16}
# No validation: its best step is before tags are obeyed (LOG.md, 2026-11-26).
COMMON = {
    **{"learning_rate": 1e-3, "depth_fraction": 0.25, "warmup_steps": "5%", "threads": 1},
    **{"val_every": 0, "gen_every": 0, "wandb": "off"},
}

Rows = Sequence[Mapping[str, Any]]
Table = NDArray[np.float64]  # [sentences, measures], medians over takes


def read_rows(name: str) -> Rows:
    rows = json.loads((VOICE / name).read_text())
    return [{**row, "path": str((VOICE / row["path"]).resolve())} for row in rows]


def act_rows(rows: Rows, folder: Path) -> Rows:
    """Write NUM_COPIES of each clip in every manner, and without one; returns their rows."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    acted: list[Mapping[str, Any]] = []
    for row, path in ((row, Path(row["path"])) for row in rows):
        rate_hz = audio.probe(path).sample_rate_hz
        clip = analyse(audio.load(path, sample_rate_hz=rate_hz), rate_hz)
        for emotion, copy in product(["", *ACTED], range(NUM_COPIES)):
            target = folder / f"{path.stem}-{emotion}-{copy}.flac"
            # A tenth of a decibel tells plain copies apart: merge leaves out the same sound.
            plain = PLAIN._replace(level_db=0.1 * copy)
            manner = ACTED[emotion].vary(generator) if emotion else plain
            audio.save(target, act(clip, rate_hz, manner), rate_hz)
            tags = {"emotion": emotion} if emotion else {}
            acted.append({**row, "path": str(target), **tags})
    return acted


def shuffle_tags(rows: Rows) -> Rows:
    tags = [row["emotion"] for row in rows if "emotion" in row]
    random.Random(0).shuffle(tags)
    shuffled = iter(tags)
    return [{**row, "emotion": next(shuffled)} if "emotion" in row else row for row in rows]


def fine_tune(rows: Rows, folder: Path, options: Mapping[str, object], *encoding: str) -> Path:
    """Encode rows, of which some are of the split val, and train demo/base; returns the run."""
    folder.mkdir(exist_ok=True)
    metadata, tokens, run = (folder / name for name in ("rows.json", "tokens.hdf5", "run"))
    metadata.write_text(json.dumps(rows))
    argv = ["--train_data", str(metadata), "--codec", "melrvq", "--output", str(tokens)]
    assert pretokenize.main([*argv, *encoding]) == 0
    options = {**COMMON, **options}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert train.main(["--data", str(tokens), "--output_dir", str(run), *flags]) == 0
    return run


def express_shuffled(run: Path, folder: Path) -> Path:
    """Train as `express` did, on the same sounds with shuffled tags; returns the run.

    No sound is encoded again: the token file has them already.
    """
    folder.mkdir()
    tokens = run.parent / "tokens.hdf5"
    shutil.copy(tokens, folder)
    lines = (run.parent / "merged.jsonl").read_text().splitlines()
    template = str(open_store(tokens).info.facts["template"])
    rows = shuffle_tags([json.loads(line) for line in lines])
    return fine_tune(rows, folder, ACTING, "--text_template", template)


def express(rows: Rows, folder: Path) -> Path:
    """Take the steps of the expressive command from recordings to weights; returns the run.

    What it does with these, in minutes more, is tested in test_expressive.py.
    """
    folder.mkdir()
    (folder / "acted.json").write_text(json.dumps(rows))
    values: dict[str, Any] = {"folders": [str(folder / "acted.json")], "balance": "none"}
    for name, options in (("pretokenize", {"codec": "melrvq"}), ("train", {**COMMON, **ACTING})):
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(options))  # JSON is YAML
        values[f"{name}_config"] = str(path)
    out = folder / "out"
    out.mkdir()
    steps, names = Steps(out), list[str]()
    for step in _plan(build(ExpressiveConfig, values), out):
        names.append(step.name)
        assert steps.run(step, len(names), 4) == 0
        if step.name == "train":
            assert names == ["import acted", "merge", "encode", "train"]
            return step.output
    raise AssertionError(names)


def speak(run: Path, tags: Sequence[str]) -> Mapping[str, Table]:
    """Speak the held-out sentences with each tag, "" = without one, and measure them."""
    family, store = open_family("csm"), open_store(run.parent / "tokens.hdf5")
    encoder = family.open_encoder(store, "cpu")
    texts = [row["text"] for row in read_rows("val.json")]
    speaker = store.splits["train"].speaker(0)  # merge keeps speakers apart: acted-nora
    prompts = [
        Prompt(f"{tag}-{number}-{take}", text, speaker, tags={"emotion": tag} if tag else {})
        for tag, (number, text), take in product(tags, enumerate(texts), range(NUM_TAKES))
    ]
    # Sampled colder, slow tags are spoken faster than they were heard.
    options = SamplingOptions(max_sec=8.0, temperature=0.6)
    samples = family.load_model(str(run)).sample(prompts, encoder, options)
    decoded = [encoder.decode(sample.arrays) for sample in samples]
    waves = [wave for wave in decoded if wave is not None]
    assert len(waves) == len(prompts)
    found = measure(waves, encoder.sample_rate_hz, [prompt.text for prompt in prompts])
    medians = np.nanmedian(found.reshape(len(tags), len(texts), NUM_TAKES, -1), axis=2)
    return dict(zip(tags, medians, strict=True))


def measure(waves: Sequence[Wave], rate_hz: int, texts: Sequence[str]) -> Table:
    """Measure waves, [waves, measures]; what cannot be measured is NaN."""
    table = np.full((len(waves), len(MEASURES)), np.nan)
    for place, (wave, text) in enumerate(zip(waves, texts, strict=True)):
        found = {**measure_energy(wave, rate_hz), **measure_rate(wave, rate_hz, text)}
        voiced = find_voiced(wave, rate_hz, "dio").semitones
        pitch = float(np.median(voiced)) if len(voiced) >= LEAST_FRAMES else np.nan
        table[place] = pitch, *(found.get(name, np.nan) for name in MEASURES[1:])
    return table


def right_shares(tagged: Table, untagged: Table, manner: Manner) -> Table:
    """Return the share of sentences whose measures moved as acted, [measures].

    A measure that is NaN counts as wrong.
    """
    wanted = np.sign([manner.semitones, manner.level_db, manner.rate - 1])
    return (np.sign(tagged - untagged) == wanted).mean(axis=0)


@dataclass(frozen=True)
class Proof:
    """What the untagged voice said before, and what the models said after."""

    before: Table
    untagged: Table
    shares: Mapping[str, Table]  # tag -> right_shares
    shuffled_shares: Mapping[str, Table]


def shares_of(spoken: Mapping[str, Table]) -> Mapping[str, Table]:
    return {tag: right_shares(spoken[tag], spoken[""], manner) for tag, manner in ACTED.items()}


def obeyed(shares: Mapping[str, Table]) -> list[str]:
    return [emotion for emotion, share in shares.items() if (share >= RIGHT_SHARE).all()]


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    folder = tmp_path_factory.mktemp("expression")
    rows = read_rows("train.json")
    val = [{**row, "split": "val"} for row in read_rows("val.json")]
    voice = fine_tune([*rows, *val], folder / "voice", VOICE_ONLY)
    tagged = express([*act_rows(rows, folder / "acted"), *val], folder / "tagged")
    shuffled = express_shuffled(tagged, folder / "shuffled")
    spoken = speak(tagged, ["", *ACTED])
    shares, shuffled_shares = shares_of(spoken), shares_of(speak(shuffled, ["", *ACTED]))
    for emotion in ACTED:
        found, control = (100 * one[emotion].round(2) for one in (shares, shuffled_shares))
        print(f"{emotion}: {found} %, with shuffled tags {control} % right in {MEASURES}")
    proof = Proof(speak(voice, [""])[""], spoken[""], shares, shuffled_shares)
    print("untagged against before:", np.nanmedian(proof.untagged - proof.before, axis=0))
    return proof


def test_tags_move_pitch_level_and_rate(proof: Proof) -> None:
    assert len(obeyed(proof.shares)) >= MIN_OBEYED, proof.shares


def test_shuffled_tags_do_not(proof: Proof) -> None:
    assert len(obeyed(proof.shuffled_shares)) < 2, proof.shuffled_shares


def test_untagged_voice_stays(proof: Proof) -> None:
    pitch_st, level_db, _ = np.nanmedian(proof.untagged - proof.before, axis=0)
    rate = np.nanmedian(proof.untagged[:, 2] / proof.before[:, 2])
    assert abs(pitch_st) < 1
    assert abs(level_db) < 2  # 1.1 dB louder when it was measured
    assert abs(np.log(rate)) < np.log(1.1)
