"""The expressive command from metadata to evaluation, on the bundled voice and codec."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.conftest import ROOT
from tests.helpers.acted_sets import write_cremad, write_esd, write_ravdess
from tests.helpers.metadata import sound

EMOTIONS = ("calm", "angry")


SHORT = "wandb: 'off'\nthreads: 1\n"
MOSHI_DATA = (
    "codec: melrvq\nfit_tokenizer: 320\nmono: silent_user\ninterleave: shift\nlead_sec: 0.8\n"
)
MOSHI_MODEL = (
    "train_from_scratch: true\nmodel_dim: 32\nmodel_layers: 1\nmodel_heads: 2\n"
    "model_depth_dim: 16\nmodel_depth_layers: 1\nmodel_depth_heads: 2\nmax_steps: 2\n"
    "gen_every: 0\nbest_from: 100%\n"
)


def expressive(folder: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *more, **options),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def command(
    folder: Path,
    *more: str,
    data: Sequence[Path] = (),
    pretokenize: str = "codec: melrvq\n",
    train: str = "max_steps: 2\ngen_max_sec: 0.4\n",
) -> list[str]:
    """Return the command line, with option files that make all of it short."""
    files = {
        "pretokenize": pretokenize,
        "train": train + SHORT,
        "evaluate": "asr: none\nembedder: none\nmax_sec: 0.4\nbase: none\n",
    }
    argv = ["--output", str(folder / "out"), "--num_sentences", "1", *more]
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
        argv += [f"--{name}_config", str(path)]
    named = map(str, data or [folder / "acted.jsonl"])
    return [sys.executable, "-m", "csm_ft.expressive", *named, *argv]


def write_rows(folder: Path, num_clips: int, emotions: Sequence[str] = EMOTIONS) -> None:
    clips = sorted((ROOT / "demo/speech/nora").glob("*.flac"))[:num_clips]
    rows = [
        {"path": str(path), "text": f"Text {i}.", "speaker": "nora", "emotion": emotion}
        for i, (path, emotion) in enumerate(zip(clips, cycle(emotions), strict=False))
    ]
    (folder / "acted.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.slow
def test_sweep_is_ranked_by_expression_and_done_once(tmp_path: Path) -> None:
    write_rows(tmp_path, 15, ("neutral", "angry", "calm"))
    train = "n_epochs: 1\ngen_max_sec: 0.4\njudge_max_sec: 1\njudge_asr: none\njudge_embedder: none\ngen_every: 0\n"
    first = expressive(tmp_path, "--sweep", "2", train=train)
    assert first.returncode == 0, first.stdout + first.stderr
    (sweep,) = (tmp_path / "out").glob("sweep-*")
    summary = json.loads((sweep / "summary.json").read_text())
    assert summary["objective_metric"] == "expression_distance"
    assert len(summary["trials"]) == 2
    assert all(trial["value"] is not None for trial in summary["trials"])
    again = expressive(tmp_path, "--sweep", "2", train=train)
    assert again.returncode == 0
    assert again.stdout.count("done already") == 6


@pytest.mark.slow
def test_moshi_ends_at_its_server(tmp_path: Path) -> None:
    write_rows(tmp_path, 10)
    argv = (tmp_path, "--family", "moshi")
    first = expressive(*argv, pretokenize=MOSHI_DATA, train=MOSHI_MODEL)
    assert first.returncode == 0, first.stdout + first.stderr
    out = tmp_path / "out"
    (export,) = out.glob("export-*")
    assert f"python -m moshi.server --config-path {export}/config.json" in first.stdout
    assert (export / "model.safetensors").is_file()
    (evaluation,) = out.glob("evaluation-*/evaluation.json")
    (model, *_) = json.loads(evaluation.read_text())["rows"]
    tags = {clip["tags"].get("emotion", "") for clip in model["clips"]}
    assert tags == {"", *EMOTIONS}
    again = expressive(*argv, pretokenize=MOSHI_DATA, train=MOSHI_MODEL)
    assert again.returncode == 0
    assert again.stdout.count("done already") == 7


def tell_apart(folders: Sequence[Path]) -> None:
    """Give each usable clip of miniatures, which are short tones, a length and a tone of its own.

    Clips of one name keep one sound.
    """
    paths = sorted(path for folder in folders for path in folder.rglob("*.wav"))
    for number, name in enumerate(dict.fromkeys(path.name for path in paths)):
        for path in (path for path in paths if path.name == name):
            try:
                wave, rate_hz = soundfile.read(path)
            except soundfile.SoundFileError:
                continue  # a pointer, or a hidden file
            if len(wave) == rate_hz // 4 and wave.any():
                sound(path, hz=150 + 20 * number, sec=0.6)


@pytest.mark.slow
def test_folders_of_three_sets_go_through_failures_and_kills(tmp_path: Path) -> None:
    sets = [write(tmp_path) for write in (write_ravdess, write_cremad, write_esd)]
    tell_apart(sets)
    wrong = expressive(tmp_path, "--text_template", "<{mood}>{text}", data=sets)
    assert wrong.returncode == 2
    assert "encode ended with exit code 2" in wrong.stdout
    assert "names mood, but no row" in wrong.stderr
    argv = command(tmp_path, data=sets)
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        seen = takewhile(lambda line: "step 6 of 8" not in line, process.stdout)
        assert sum("done already" in line for line in seen) == 4
        os.killpg(process.pid, signal.SIGKILL)
    last = expressive(tmp_path, data=sets)
    assert last.returncode == 0, last.stdout + last.stderr
    assert last.stdout.count("done already") == 5
    check_rows(tmp_path / "out")
    check_pages(tmp_path / "out")
    again = expressive(tmp_path, data=sets)
    assert again.returncode == 0
    assert again.stdout.count("done already") == 8


def check_rows(out: Path) -> None:
    rows = [json.loads(line) for line in (out / "merged.jsonl").read_text().splitlines()]
    assert Counter(row["source"] for row in rows) == {"ravdess": 2, "cremad": 3, "esd": 6}
    speakers = {row["speaker"] for row in rows}
    assert {"ravdess-01", "cremad-1040", "esd-0011"} <= speakers
    texts = {row["text"] for row in rows}
    assert {"Dogs are sitting by the door", "我们今天去学校。", "Sixteen bits."} <= texts
    for name, count in (("RAVDESS", 1), ("CREMA-D", 5), ("Emotion Speech Dataset", 3)):
        rejected = (out / f"rows/{name}.jsonl.rejected.jsonl").read_text().splitlines()
        assert len(rejected) == count, rejected
        assert all(json.loads(line)["reason"] for line in rejected)


def check_pages(out: Path) -> None:
    rows = [json.loads(line) for line in (out / "merged.jsonl").read_text().splitlines()]
    (page,) = out.glob("samples-*/index.html")
    trained = {row["emotion"] for row in rows if row["split"] == "train"}
    assert trained
    assert all(emotion in page.read_text() for emotion in trained)
    (evaluation,) = out.glob("evaluation-*/evaluation.json")
    assert json.loads(evaluation.read_text())["rows"]
