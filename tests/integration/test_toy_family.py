"""A family that is as unlike CSM as can be moves in: a folder and one line, nothing else.

The tree is copied, tests/toy_family/ becomes csm_ft/families/toy/, one `case` is added, and every
program is run as a user would.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
import yaml

pytestmark = pytest.mark.slow  # every program runs as a process of its own
ROOT = Path(__file__).resolve().parents[2]
CASE = """\
        case "toy":
            from csm_ft.families.toy.family import ToyFamily

            return ToyFamily()
"""
TRAIN = (
    *("--data", "toy.hdf5", "--train_from_scratch", "--learning_rate", "1e-2", "--wandb", "off"),
    *("--device", "cpu", "--threads", "1", "--val_every", "4", "--gen_every", "4"),
    *("--log_every", "2", "--save_every", "3"),
)


def run(tree: Path, *argv: str, expected: int = 0) -> str:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, *argv]
    done = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def write_speech(tree: Path) -> None:
    """Write stereo sounds whose pitch tells their text, and a mono one, which is rejected."""
    rows = []
    for number in range(24):
        seconds = np.arange(16000 + 300 * number) / 16000
        left = 0.3 * np.sin(2 * np.pi * (200 + 50 * (number % 4)) * seconds)
        right = 0.2 * np.sin(2 * np.pi * 400 * seconds)
        both = np.stack([left, right], axis=1)
        soundfile.write(tree / f"{number}.wav", both, 16000)
        text = ("a cat sat", "the dog ran", "we all sing", "it is late")[number % 4]
        rows.append({"path": f"{number}.wav", "text": text})
    soundfile.write(tree / "mono.wav", left, 16000)
    mono = {"path": "mono.wav", "text": "one side only"}
    (tree / "train.json").write_text(json.dumps([*rows[:18], mono]))
    (tree / "val.json").write_text(json.dumps(rows[18:]))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with the toy family in it, and its token file."""
    tree = tmp_path_factory.mktemp("toy") / "tree"
    ignored = shutil.ignore_patterns(".*", "tests", "exp", "data.hdf5", "__pycache__", "voices")
    shutil.copytree(ROOT, tree, ignore=ignored)
    shutil.copytree(ROOT / "tests" / "toy_family", tree / "csm_ft" / "families" / "toy")
    match = tree / "csm_ft" / "families" / "__init__.py"
    lines = match.read_text()
    assert lines.count("        case _:\n") == 1
    match.write_text(lines.replace("        case _:\n", f"{CASE}        case _:\n"))
    write_speech(tree)
    said = run(
        tree,
        *("pretokenize.py", "--family", "toy", "--train_data", "train.json"),
        *("--val_data", "val.json", "--output", "toy.hdf5", "--max_rejected", "10%"),
    )
    assert "mono.wav has 1 channel" in said
    return tree


@pytest.fixture(scope="module")
def trained(tree: Path) -> str:
    return run(tree, "train.py", *TRAIN, "--output_dir", "run", "--n_epochs", "3")


@pytest.fixture(scope="module")
def swept(tree: Path) -> str:
    (tree / "space.yaml").write_text("width: {type: categorical, values: [8, 16]}\n")
    return run(
        tree,
        *("sweep.py", "--data", "toy.hdf5", "--train_from_scratch", "--learning_rate", "1e-2"),
        *("--sweep_config", "space.yaml", "--n_trials", "2", "--n_epochs", "9", "--wandb", "off"),
        *("--device", "cpu", "--output_dir", "sweep", "--best_by", "val_errors"),
    )


def test_toy_family_is_small() -> None:
    assert len((ROOT / "tests/toy_family/family.py").read_text().splitlines()) < 200


def test_token_file_names_its_family(tree: Path) -> None:
    said = run(tree, "-m", "csm_ft.data", "toy.hdf5")
    assert "family toy" in said
    assert "frames" not in said
    again = run(
        tree,
        *("pretokenize.py", "--family", "toy", "--train_data", "train.json"),
        *("--val_data", "val.json", "--output", "toy.hdf5", "--max_rejected", "10%"),
    )
    assert "0 clips encoded now" in again


def test_other_family_is_refused(tree: Path) -> None:
    said = run(tree, "train.py", "--family", "csm", "--data", "toy.hdf5", expected=2)
    assert "toy.hdf5 was pretokenised for the family toy, not for csm" in said


def test_training_speaks_its_unit(tree: Path, trained: str) -> None:
    assert "nats per letter" in trained
    assert "nats per frame" not in trained
    rows = [json.loads(line) for line in (tree / "run/metrics.jsonl").read_text().splitlines()]
    values = [row for row in rows if row["kind"] == "val"]
    assert {"val_loss", "val_letters", "val_spaces", "val_errors"} <= values[-1].keys()
    assert values[-1]["val_loss"] < values[0]["val_loss"]
    answers = [row["answer"] for row in rows if row["kind"] == "sample"]
    assert len(answers) >= 4
    assert not list((tree / "run/samples").rglob("*.wav"))
    assert (tree / "run/log.txt").read_text().count("nats per letter") == len(values)
    assert yaml.safe_load((tree / "run/config.yaml").read_text())["family"] == "toy"


def test_resume_matches_uninterrupted_run(tree: Path, trained: str) -> None:
    run(tree, "train.py", *TRAIN, "--output_dir", "cut", "--max_steps", "9")
    shutil.copytree(tree / "cut", tree / "resumed")
    shutil.rmtree(tree / "resumed/checkpoints/step_000009")  # as if killed before it was saved
    said = run(tree, "train.py", *TRAIN, "--output_dir", "resumed", "--max_steps", "9")
    assert "resuming from step 6" in said
    ends = [
        tree / name / "checkpoints/step_000009/model.safetensors" for name in ("cut", "resumed")
    ]
    assert ends[0].read_bytes() == ends[1].read_bytes(), said


def test_sweep_carries_all_metrics(tree: Path, swept: str) -> None:
    summary = json.loads((tree / "sweep/summary.json").read_text())
    assert summary["unit"] == "share of wrong letters"
    assert {"val_loss", "val_errors"} <= summary["trials"][0]["metrics"].keys()
    table = pandas.read_csv(tree / "sweep/trials.csv")
    assert "metrics.val_errors" in table.columns
    best = yaml.safe_load((tree / "sweep/best.yaml").read_text())
    assert best["family"] == "toy"
    assert best["best_by"] == "val_errors"


def test_page_speaks_only_of_what_there_is(tree: Path, swept: str) -> None:
    page = (tree / "sweep/report.html").read_text()
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    shown = re.sub(r"<[^>]+>", " ", text).lower()
    for word in ("frame", "codec", "code", "eos", "voice", "speech", "audio", "recording"):
        assert not re.search(rf"\b{word}s?\b", shown), f"the page says {word!r}"
    assert "<audio" not in text
    assert "share of wrong letters" in shown


def test_generate_answers_with_text(tree: Path, trained: str) -> None:
    argv = ("--model", "run", "--sound", "20.wav", "--output", "out")
    said = run(tree, "-m", "csm_ft.generate", *argv)
    assert not list((tree / "out").glob("*.wav"))
    facts = [json.loads(path.read_text()) for path in (tree / "out").glob("*.json")]
    assert [type(fact["answer"]) for fact in facts] == [str]
    assert "EOS" not in said
    assert (tree / "out/index.html").is_file()


def test_exporter_is_the_familys_own(tree: Path, trained: str) -> None:
    run(tree, "-m", "csm_ft.export", "run", "--format", "plain")
    folder = tree / "run/export-plain"
    assert (folder / "toy.safetensors").is_file()
    card = (folder / "README.md").read_text()
    assert "nats per letter" in card.lower()
    assert "codebook" not in card
    said = run(tree, "-m", "csm_ft.export", "run", "--format", "sesame", expected=2)
    assert "plain" in said
