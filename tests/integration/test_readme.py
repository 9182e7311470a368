"""The README is true: its commands run word for word, its metadata is read, its tables are current.

Mimi and CSM-1B by their hub names.
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
from csm_ft.pretokenize.metadata import read_metadata
from tests.helpers.hub import environment

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN = [
    line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    python ")
]
PRETOKENIZE, TRAIN, SWEEP, *SPEAK = FIRST_SCREEN
EXPORT = [
    line.split("#")[0].strip()
    for line in README.splitlines()
    if line.startswith("python -m csm_ft.export")
]
EXAMPLE = README.split("```json\n")[1].split("```")[0]
NAMES = (
    "WANDB_API_KEY",
    "BACKBONE_FLAVOR",
    "DECODER_FLAVOR",
)  # of the machine that the tests run on: not wanted


def run(command: str, folder: Path, hub_cache: Path, *, timeout_sec: float = 250) -> str:
    """Run a command of the README in `folder`, as it stands; return what it says."""
    words = [
        str(ROOT / word) if word in ("pretokenize.py", "train.py", "sweep.py") else word
        for word in shlex.split(command)
    ]
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
    long = np.concatenate(clips)
    assert len(long) > 12 * rate
    soundfile.write(folder / "audio/marie.wav", np.stack([long, long * 0.5], axis=1), rate)
    soundfile.write(folder / "audio/bonjour.flac", clips[0], rate)
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
    """A user's folder after the first command of the README, and what the command said."""
    folder = make_user_folder(tmp_path_factory.mktemp("user"))
    return folder, run(PRETOKENIZE, folder, hub_cache)


def test_three_commands_before_line_40() -> None:
    assert [shlex.split(command)[1] for command in FIRST_SCREEN[:3]] == [
        "pretokenize.py",
        "train.py",
        "sweep.py",
    ]
    assert README[: README.index(SWEEP)].count("\n") < 40


def test_the_metadata_example_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(EXAMPLE, encoding="utf-8")
    rows, rejections = read_metadata(tmp_path / "metadata.json")
    assert not rejections
    assert [(row.text, row.path.name, row.start_sec, row.end_sec, row.speaker) for row in rows] == [
        ("Marie aime les pommes et les poires.", "marie.wav", 0.0, 3.2, "0"),
        ("Bonjour, ça va ?", "bonjour.flac", None, None, None),
    ]


def test_pretokenize_word_for_word(user: tuple[Path, str]) -> None:
    folder, said = user
    store = open_store(folder / "data/tokens.hdf5")
    assert (
        store.info.codec,
        store.info.codec_source,
        store.info.num_codebooks,
        store.info.codec_vocab_size,
    ) == ("mimi", "kyutai/mimi", 32, 2051)
    assert store.info.tokenizer == "sesame/csm-1b"
    assert (len(store.splits["train"]), len(store.splits["val"])) == (8, 2)
    assert store.splits["val"].num_frames[0] == 40  # 3.2 s
    assert store.splits["val"].clip(1).speaker == "999"
    assert "kyutai/mimi" in said
    assert "2 validation clips cannot tell" in said
    assert said.rstrip().endswith("next: python train.py --data data/tokens.hdf5")
    assert not list(folder.glob("data/*.rejected.jsonl"))


def test_pretokenize_again_encodes_only_what_is_new(
    user: tuple[Path, str], tmp_path: Path, hub_cache: Path
) -> None:
    folder = tmp_path / "user"
    folder.symlink_to(user[0])
    before = open_store(folder / "data/tokens.hdf5").info.content_fingerprint
    said = run(PRETOKENIZE, folder, hub_cache)
    assert open_store(folder / "data/tokens.hdf5").info.content_fingerprint == before
    assert "nothing to encode" in said


def test_train_word_for_word_and_bare(user: tuple[Path, str], hub_cache: Path) -> None:
    """`python train.py` alone means the same run: the same folder, which is complete already."""
    folder, _ = user
    said = run(TRAIN, folder, hub_cache)
    assert "data/tokens.hdf5: mimi, 32 codebooks -> csm from sesame/csm-1b" in said
    assert "W&B offline" in said
    assert re.search(r"step 5  spoke 2 sentences into exp/\S+/samples", said)
    assert re.search(r"its weights are in exp/\S+/checkpoints/best", said)
    (name,) = (folder / "exp").iterdir()
    assert (
        yaml.safe_load((name / "config.yaml").read_text())["model_name_or_checkpoint_path"]
        == "sesame/csm-1b"
    )
    assert (name / "metrics.jsonl").is_file()
    assert (name / "checkpoints/best/model.safetensors").is_file()
    assert len(list((name / "samples/reference").glob("*.wav"))) == 2
    bare = run("python train.py", folder, hub_cache)
    assert "this run is complete already" in bare
    assert [*(folder / "exp").iterdir()] == [name]


def test_speaking_and_exporting_word_for_word(user: tuple[Path, str], hub_cache: Path) -> None:
    """After the run, with its folder in the place of the name that stands in the README."""
    folder, _ = user
    run(TRAIN, folder, hub_cache)
    (name,) = (p.name for p in (folder / "exp").iterdir())
    clip, rate = soundfile.read(folder / "audio/bonjour.flac")
    soundfile.write(folder / "question.wav", clip, rate)
    assert len(SPEAK) == 2
    for command in SPEAK:
        said = run(command.replace("<name>", name), folder, hub_cache)
        wavs = [folder / line for line in said.splitlines() if line.endswith(".wav")]
        assert len(wavs) == (3 if "--num_takes 3" in command else 2)
        assert all(soundfile.info(wav).samplerate == 24000 for wav in wavs)
    assert len(EXPORT) == 3
    for command in EXPORT:
        said = run(command.replace("exp/run", f"exp/{name}"), folder, hub_cache)
        assert "c0 logits differ by at most" in said
        assert (folder / "exp" / name / f"export-{command.split()[-1]}" / "README.md").is_file()


def test_the_token_file_tells_about_itself_and_gives_clips_back(
    user: tuple[Path, str], hub_cache: Path
) -> None:
    folder, _ = user
    (verify,) = re.findall(r"`(python -m csm_ft\.store [^`]+)`", README)
    (decode,) = re.findall(r"`(--decode [^`]+)`", README)
    assert "kyutai/mimi" in run(verify, folder, hub_cache)
    assert "Et voilà la phrase 2." in run(f"{verify} {decode}", folder, hub_cache)
    wave, rate = soundfile.read(folder / "train-3.wav")
    assert (rate, len(wave)) == (24000, 15 * 1920)  # 1.2 s


def test_the_embedded_codec_chooses_the_embedded_base(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = (
        f"--data {tokens} --max_steps 1 --gen_every 0 --save_every 0 --wandb off --threads 1"
        f" --output_dir {tmp_path / 'run'}"
    )
    assert train.main(argv.split()) == 0
    assert re.search(r"melrvq, \d+ codebooks -> csm from \S*demo/base", capsys.readouterr().out)


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


def test_the_option_tables_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/make_option_tables.py"), "--check"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, "run scripts/make_option_tables.py and commit README.md"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sweep_word_for_word(user: tuple[Path, str], hub_cache: Path) -> None:
    """Fifty trials on two workers; then the best config trains, as the sweep's last line says."""
    folder, _ = user
    said = run(SWEEP, folder, hub_cache, timeout_sec=1700)
    out = folder / "sweep"
    assert len((out / "trials.csv").read_text().splitlines()) >= 51
    assert (out / "report.html").stat().st_size > 10_000
    (command,) = re.findall(r"next: (python train\.py --config \S+)", said)
    run(command, folder, hub_cache)
