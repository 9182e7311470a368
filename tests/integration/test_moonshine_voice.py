"""A streaming Moonshine in the moonshine-voice runtime: its text is that of the run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import train
from csm_ft.data import audio
from csm_ft.data.token_file import open_store
from csm_ft.export.__main__ import main as export
from csm_ft.families.moonshine.encoder import MoonshineEncoder
from csm_ft.families.moonshine.export import voice, voice_runtime
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.weights import load_model
from tests.conftest import ROOT
from tests.integration.test_moonshine import OPTIONS, SMALL, tokens  # noqa: F401 (a fixture)

RATE = 20.0  # tokens per second


@pytest.fixture(scope="module")
def streaming(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A streaming model that has learned to write words, if not the right ones."""
    folder = tmp_path_factory.mktemp("streaming") / "run"
    argv = ["--data", str(tokens), "--output_dir", str(folder), *OPTIONS]
    argv += ["--train_from_scratch", "--model", "streaming-tiny", *SMALL]
    argv += ["--max_steps", "80", "--learning_rate", "1e-2", "--save_every", "80"]
    argv += ["--val_every", "80", "--gen_every", "0"]
    assert train.main(argv) == 0
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not voice_runtime.is_installed(), reason="moonshine-voice is not installed")
def test_runtime_writes_our_text(
    streaming: Path,
    tokens: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whole recordings, and listening live; the code of the model card runs, too."""
    output = tmp_path / "voice"
    argv = [str(streaming), "--format", "moonshine-voice", "--output", str(output)]
    assert export(argv) == 0
    printed = capsys.readouterr().out
    assert "computed by onnxruntime at 1, 10, 35 s, differences of at most: frontend" in printed
    assert "read back by moonshine-voice: the same text at 1, 10, 35 s" in printed
    assert {f"{name}.onnx" for name in voice.GRAPHS} == {p.name for p in output.glob("*.onnx")}

    model = load_model(str(streaming)).eval()
    store = open_store(tokens)
    split = store.splits["train"]
    clip = np.concatenate([split.array("samples", row) for row in range(4)])
    clip = clip[: voice_runtime.heard(len(clip))]
    ids = transcribe(model, [clip], RATE)[0].ids
    expected = MoonshineEncoder.from_store(store).tokenizer.decode(ids)
    assert len(expected) > 20
    theirs = voice_runtime.text_of(output, clip, RATE, every_sec=0.5)
    assert voice_runtime.printable(theirs) == voice_runtime.printable(expected)
    # Sound in odd pieces is heard as whole sound is.
    graphs = voice.Graphs(output)
    np.testing.assert_allclose(graphs.features(clip, 777), graphs.features(clip), atol=1e-5)

    snippet = printed[printed.index("from moonshine_voice") :]
    soundfile.write(
        tmp_path / "recording.wav",
        audio.load(ROOT / "demo/speech/nora/0081.flac", sample_rate_hz=16000),
        16000,
    )
    (tmp_path / "run.py").write_text(snippet)
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_export_without_the_runtime_says_what_was_not_checked(
    tokens: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine without moonshine-voice: onnxruntime alone vouches for the graphs."""
    run, output = tmp_path / "run", tmp_path / "voice"
    argv = ["--data", str(tokens), "--output_dir", str(run), *OPTIONS, "--train_from_scratch"]
    argv += ["--model", "streaming-tiny", *SMALL, "--max_steps", "2", "--gen_every", "0"]
    assert train.main(argv) == 0
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    monkeypatch.setattr(
        voice_runtime, "find_spec", lambda name: None if name == "moonshine_voice" else object()
    )
    capsys.readouterr()
    assert export([str(run), "--format", "moonshine-voice", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "computed by onnxruntime at 1, 10, 35 s, differences of at most: frontend" in printed
    assert "moonshine-voice did not check this export, only onnxruntime" in printed
    assert "pip install --require-hashes --no-deps -r requirements-moonshine.txt" in printed
    assert "read back by moonshine-voice" not in printed
    facts = json.loads((output / "export.json").read_text())
    assert (facts["read_by"], facts["warning"]) == ("onnxruntime", voice_runtime.NOT_CHECKED)
    assert "read back by" not in (output / "README.md").read_text()
    assert {f"{name}.ort" for name in voice.GRAPHS} == {p.name for p in output.glob("*.ort")}


@pytest.mark.slow
def test_command_says_what_it_needs(
    streaming: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert export([str(streaming), "--format", "moonshine-voice"]) == 2
    assert "pip install -r requirements-onnx.txt" in capsys.readouterr().err
    weights = streaming / "checkpoints/best"
    assert json.loads((weights / "config.json").read_text())["model_type"] == "moonshine_streaming"
    (tmp_path / "alone").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "alone" / name).write_bytes((weights / name).read_bytes())
    argv = [str(tmp_path / "alone"), "--family", "moonshine", "--format", "moonshine-voice"]
    assert export([*argv, "--output", str(tmp_path / "out")]) == 2
    assert "needs the tokenizer" in capsys.readouterr().err
