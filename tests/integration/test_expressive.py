"""The expressive command from metadata to evaluation, on the bundled voice and codec."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from tests.conftest import ROOT

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


def expressive(
    folder: Path,
    *more: str,
    pretokenize: str = "codec: melrvq\n",
    train: str = "max_steps: 2\ngen_max_sec: 0.4\n",
) -> subprocess.CompletedProcess[str]:
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
    return subprocess.run(
        [sys.executable, "-m", "csm_ft.expressive", str(folder / "acted.jsonl"), *argv],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def write_rows(folder: Path, num_clips: int, emotions: Sequence[str] = EMOTIONS) -> None:
    clips = sorted((ROOT / "demo/speech/nora").glob("*.flac"))[:num_clips]
    rows = [
        {"path": str(path), "text": f"Text {i}.", "speaker": "nora", "emotion": emotion}
        for i, (path, emotion) in enumerate(zip(clips, cycle(emotions), strict=False))
    ]
    (folder / "acted.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.slow
def test_one_command_runs_and_skips_what_is_done(tmp_path: Path) -> None:
    write_rows(tmp_path, 10)
    first = expressive(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    out = tmp_path / "out"
    (evaluation,) = out.glob("evaluation-*/evaluation.json")
    (page,) = out.glob("samples-*/index.html")
    assert json.loads(evaluation.read_text())["rows"]
    assert all(emotion in page.read_text() for emotion in EMOTIONS)
    again = expressive(tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("done already") == 6


@pytest.mark.slow
def test_failed_step_is_named_and_continued(tmp_path: Path) -> None:
    write_rows(tmp_path, 10)
    wrong = expressive(tmp_path, "--text_template", "<{mood}>{text}")
    assert wrong.returncode == 2
    assert "encode ended with exit code 2" in wrong.stdout
    assert "names mood, but no row" in wrong.stderr


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
