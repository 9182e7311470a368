"""The README is true: its commands run word for word, and its metadata is read.

Mimi and CSM-1B by their hub names. That commands, links and tables of all pages are right is
tested in tests/unit/test_docs.py.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import train
from csm_ft.data.token_file import open_store
from csm_ft.datasets.metadata import read_metadata
from tests.helpers.hub import environment

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith("python")
]
PRETOKENIZE, TRAIN, SWEEP, VERIFY, LISTEN, LORA, BEST, *REST = COMMANDS
GENERATE = [command for command in REST if "csm_ft.generate" in command]
EXPORT = [command for command in REST if "csm_ft.export" in command]
EXAMPLE = README.split("```json\n")[1].split("```")[0]
# Of the machine that the tests run on: not wanted.
NAMES = ("WANDB_API_KEY", "BACKBONE_FLAVOR", "DECODER_FLAVOR", "CSM_REPO_PATH")


def run(command: str, folder: Path, hub_cache: Path, *, timeout_sec: float = 250) -> str:
    """Run a command of the README in `folder`, as it stands; return what it prints."""
    programs = ("pretokenize.py", "train.py", "sweep.py")
    words = [str(ROOT / word) if word in programs else word for word in shlex.split(command)]
    assert words[0] == "python"
    variables = {name: value for name, value in os.environ.items() if name not in NAMES}
    variables |= {
        **environment(hub_cache),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WANDB_SILENT": "true",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout_sec,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def make_user_folder(folder: Path) -> Path:
    """Write the README's example and six rows more as train.json, the example itself as val.json.

    And the audio they name.
    """
    speech = json.loads((ROOT / "demo/new_voice/train.json").read_text())
    clips, rate = [], 0
    for row in speech[:10]:
        clip, rate = soundfile.read(ROOT / "demo/new_voice" / row["path"], dtype="float32")
        clips.append(clip)
    (folder / "audio").mkdir(parents=True)
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(ROOT / "configs")  # as in the checkout
    long = np.concatenate(clips)
    assert len(long) > 12 * rate
    soundfile.write(folder / "audio/marie.wav", np.stack([long, long * 0.5], axis=1), rate)
    soundfile.write(folder / "audio/bonjour.flac", clips[0], rate)
    soundfile.write(folder / "question.wav", clips[0], rate)
    rows = json.loads(EXAMPLE)
    more = [
        {
            "text": f"Et voilà la phrase {i}.",
            "path": "audio/marie.wav",
            "start": 1.5 * i,
            "end": 1.5 * i + 1.2,
        }
        for i in range(1, 7)
    ]
    (folder / "train.json").write_text(json.dumps(rows + more), encoding="utf-8")
    (folder / "val.json").write_text(EXAMPLE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, hub_cache: Path) -> tuple[Path, str]:
    """A user's folder after the first command of the README, and what the command printed."""
    folder = make_user_folder(tmp_path_factory.mktemp("user"))
    return folder, run(PRETOKENIZE, folder, hub_cache)


def test_every_command_is_run_here() -> None:
    programs = ["pretokenize.py", "train.py", "sweep.py"]
    assert [shlex.split(command)[1] for command in COMMANDS[:3]] == programs
    assert VERIFY == "python -m csm_ft.data data/tokens.hdf5"
    assert f"{VERIFY} --listen 12" == LISTEN
    assert "--output_dir exp/my-run" in LORA
    assert BEST == "python train.py --config sweep/best.yaml"
    assert (len(GENERATE), len(EXPORT)) == (2, 3)
    assert len(REST) == len(GENERATE) + len(EXPORT)


def test_metadata_example_is_read(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(EXAMPLE, encoding="utf-8")
    rows, rejections = read_metadata(tmp_path / "metadata.json")
    assert not rejections
    assert [(row.text, row.path.name, row.start_sec, row.end_sec, row.speaker) for row in rows] == [
        ("Marie aime les pommes et les poires.", "marie.wav", 0.0, 3.2, "0"),
        ("Bonjour, ça va ?", "bonjour.flac", None, None, None),
    ]


@pytest.mark.slow
def test_pretokenize_word_for_word(user: tuple[Path, str]) -> None:
    folder, said = user
    store = open_store(folder / "data/tokens.hdf5")
    facts = store.info.facts
    names = ("codec", "codec_source", "num_codebooks", "codec_vocab_size", "tokenizer")
    found = [facts[name] for name in names]
    assert found == ["mimi", "kyutai/mimi", 32, 2051, "sesame/csm-1b"]
    assert store.info.family == "csm"
    assert (len(store.splits["train"]), len(store.splits["val"])) == (8, 2)
    assert store.splits["val"].lengths("codes")[0] == 40  # 3.2 s
    assert store.splits["val"].clip(1).speaker == "999"
    assert "kyutai/mimi" in said
    assert "2 validation clips cannot tell" in said
    assert said.rstrip().endswith("next: python train.py --data data/tokens.hdf5")
    assert not list(folder.glob("data/*.rejected.jsonl"))


@pytest.mark.slow
def test_pretokenize_again_encodes_only_what_is_new(
    user: tuple[Path, str], hub_cache: Path
) -> None:
    folder, _ = user
    before = open_store(folder / "data/tokens.hdf5").info.content_fingerprint
    said = run(PRETOKENIZE, folder, hub_cache)
    assert open_store(folder / "data/tokens.hdf5").info.content_fingerprint == before
    assert "0 clips encoded now" in said


@pytest.mark.slow
def test_train_word_for_word_and_bare(user: tuple[Path, str], hub_cache: Path) -> None:
    """`python train.py` alone means the same run: the same folder, which is complete."""
    folder, _ = user
    said = run(TRAIN, folder, hub_cache)
    assert "data/tokens.hdf5" in said
    assert "sesame/csm-1b" in said
    assert "W&B offline" in said
    assert re.search(r"step 5  2 samples in exp/\S+/samples", said)
    assert re.search(r"its weights are in exp/\S+/checkpoints/best", said)
    (name,) = (folder / "exp").glob("tokens-*")
    config = yaml.safe_load((name / "config.yaml").read_text())
    assert config["model_name_or_checkpoint_path"] == "sesame/csm-1b"
    for file in ("log.txt", "metrics.jsonl", "checkpoints/best/model.safetensors"):
        assert (name / file).is_file()
    assert len(list((name / "samples/reference").glob("*.wav"))) == 2
    bare = run("python train.py", folder, hub_cache)
    assert "this run is complete" in bare
    assert [*(folder / "exp").glob("tokens-*")] == [name]


@pytest.mark.slow
def test_generate_and_export_word_for_word(user: tuple[Path, str], hub_cache: Path) -> None:
    folder, _ = user
    run(LORA, folder, hub_cache)
    for command in GENERATE:
        said = run(command, folder, hub_cache)
        wavs = [folder / line for line in said.splitlines() if line.endswith(".wav")]
        assert len(wavs) == (3 if "--num_takes 3" in command else 2)
        assert all(soundfile.info(wav).samplerate == 24000 for wav in wavs)
        assert all(wav.with_suffix(".json").is_file() for wav in wavs)
    assert (folder / "out/index.html").is_file()
    for command in EXPORT:
        said = run(command, folder, hub_cache)
        assert "c0 logits differ by at most" in said
        assert (folder / f"exp/my-run/export-{command.split()[-1]}/README.md").is_file()


@pytest.mark.slow
def test_token_file_is_described_and_decoded(user: tuple[Path, str], hub_cache: Path) -> None:
    folder, _ = user
    assert "kyutai/mimi" in run(VERIFY, folder, hub_cache)
    assert "Et voilà la phrase 2." in run(f"{VERIFY} --decode 3", folder, hub_cache)
    wave, rate = soundfile.read(folder / "train-3.wav")
    assert (rate, len(wave)) == (24000, 15 * 1920)  # 1.2 s
    assert "index.html" in run(LISTEN, folder, hub_cache)


def test_embedded_codec_chooses_the_embedded_base(tokens: Path, tmp_path: Path) -> None:
    argv = (
        f"--data {tokens} --max_steps 1 --gen_every 0 --save_every 0 --wandb off --threads 1"
        f" --output_dir {tmp_path / 'run'}"
    )
    assert train.main(argv.split()) == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model_name_or_checkpoint_path"].endswith("demo/base")


def test_without_a_token_file_the_next_command_is_shown(tmp_path: Path) -> None:
    for program in ("train.py", "sweep.py"):
        done = subprocess.run(
            [sys.executable, str(ROOT / program)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "python pretokenize.py --train_data train.json" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sweep_word_for_word(user: tuple[Path, str], hub_cache: Path) -> None:
    """Fifty trials on two workers; then the best config trains, as the sweep's last line says."""
    folder, _ = user
    said = run(SWEEP, folder, hub_cache, timeout_sec=1700)
    out = folder / "sweep"
    assert len((out / "trials.csv").read_text().splitlines()) >= 51
    assert (out / "report.html").stat().st_size > 10_000
    assert f"next: {BEST}" in said
    run(BEST, folder, hub_cache)
