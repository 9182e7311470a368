"""The base that speaks (demo/spoken), and the demo that adapts it to a voice it never heard.

A real recogniser judges 16 sentences that nobody was trained on.
"""

import json
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
import soundfile

from csm_ft.generate.__main__ import main as generate
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts/spoken_demo"))

import judge
import make_speech


@pytest.mark.slow
@pytest.mark.parametrize("speaker", ["slt", "joe"])
def test_new_sentences_are_understood(speaker: str, tmp_path: Path) -> None:
    prompts = [{"text": text, "speaker": speaker} for text in make_speech.HELD_OUT]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    argv = ["--model", str(ROOT / "demo/spoken"), "--prompts", str(tmp_path / "prompts.json")]
    argv += ["--temperature", "0.2", "--topk", "3", "--max_sec", "6"]
    assert generate([*argv, "--output", str(tmp_path / "samples")]) == 0
    recogniser = judge.open_recogniser()
    said: list[str] = []
    heard: list[str] = []
    for path in sorted((tmp_path / "samples").glob("*.wav")):
        said.append(judge.normalised(json.loads(path.with_suffix(".json").read_text())["text"]))
        heard.append(judge.recognise(recogniser, soundfile.read(path, dtype="float32")[0]))
    assert len(said) == 16
    # 0.10 (slt) and 0.16 (joe) when the base was made.
    assert jiwer.wer(said, heard) <= 0.25
    shifted = jiwer.wer(said, [*heard[1:], heard[0]])
    assert shifted > 0.75  # other sentences are not the ones that were asked for


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_adapts_to_a_voice_it_never_heard(tmp_path: Path) -> None:
    """`make demo`, in a folder of its own; its default settings are a row beside the best ones."""
    for path in ROOT.iterdir():
        if path.name not in (".git", "exp"):
            (tmp_path / path.name).symlink_to(path)
    installed = [f"--old-file=.venv/installed{name}" for name in ("", "-judges")]
    command = ["make", *installed, "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    demo = tmp_path / "exp/demo"
    assert len(json.loads((demo / "summary.json").read_text())["trials"]) == 6
    assert (demo / "report.html").is_file()
    found = json.loads((demo / "evaluation/evaluation.json").read_text())
    metrics = {row["kind"]: row["metrics"] for row in found["rows"]}
    wer = {kind: values["wer"]["value"] for kind, values in metrics.items()}
    voice = {kind: values["similarity"]["value"] for kind, values in metrics.items()}
    print(wer, voice)
    assert wer["recordings"] < 0.05
    assert wer["codec"] <= 0.15
    default = "default" if "default" in metrics else "model"  # no row beside it if it is best
    # Of 114 words: over three seeds the model had 0.20 to 0.25, and the codec 0.09 to 0.12 in
    # several runs (LOG.md), so that 0.15 more was within their spread.
    assert wer[default] <= min(wer["codec"] + 0.2, 0.4)
    assert wer["model"] <= 0.4
    for kind in {"model", default}:
        assert voice[kind] > voice["base"] + 0.1  # the base speaks well, as somebody else
    assert "better in voice" in " ".join(found["verdicts"])
