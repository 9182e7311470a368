"""Recordings to text by a run: batches equal files alone, and bad files are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pretokenize
import train
from csm_ft.data import audio
from csm_ft.transcribe.__main__ import main
from tests.conftest import ROOT, write_metadata

SMALL = "--train_from_scratch --model_dim 32 --model_ffn_dim 64 --model_heads 2".split()
SMALL += "--model_encoder_layers 1 --model_decoder_layers 1 --max_steps 3 --wandb off".split()
SMALL += "--device cpu --gen_every 0 --val_wer_clips 0 --max_tokens_per_sec 3".split()
SPEECH = sorted((ROOT / "demo/speech/nora").glob("*.flac"))[:3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asr")
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--output", str(folder / "a.hdf5")]
    for split, count in (("train", 8), ("val", 2)):
        argv += [f"--{split}_data", str(write_metadata(folder / f"{split}.json", split, count))]
    assert pretokenize.main(argv) == 0
    argv = ["--data", str(folder / "a.hdf5"), "--output_dir", str(folder / "run")]
    assert train.main([*argv, *SMALL, "--learning_rate", "1e-2"]) == 0
    return folder / "run"


def run(model: Path, *more: str) -> int:
    return main([*more, "--model", str(model), "--device", "cpu"])


def test_files_are_transcribed_like_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, *map(str, SPEECH), "--output", str(tmp_path)) == 0
    together = capsys.readouterr().out
    assert [path.name for path in sorted(tmp_path.iterdir())] == sorted(
        f"{path.stem}.{suffix}" for path in SPEECH for suffix in ("txt", "srt", "json")
    )
    for path in SPEECH:
        assert run(model, str(path)) == 0
        alone = capsys.readouterr().out
        assert f"{path}:\n{alone}" in together
        assert (tmp_path / f"{path.stem}.txt").read_text() == alone


def test_long_recording_is_cut_at_silence(model: Path, tmp_path: Path) -> None:
    waves = [audio.load(path, sample_rate_hz=16000) for path in SPEECH * 3]
    pause = np.zeros(16000, np.float32)
    long = np.concatenate([part for wave in waves for part in (wave, pause)])
    soundfile.write(tmp_path / "long.wav", long, 16000)
    out = tmp_path / "out"
    argv = ["--output", str(out), "--max_sec", "6", "--format", "json"]
    assert run(model, str(tmp_path / "long.wav"), *argv) == 0
    found = json.loads((out / "long.json").read_text())
    parts = [(segment["start_sec"], segment["end_sec"]) for segment in found["segments"]]
    assert len(parts) >= len(long) / 16000 / 6
    assert all(0 < end - start <= 6 for start, end in parts)
    assert found["duration_sec"] == pytest.approx(len(long) / 16000, abs=1e-3)


def test_unreadable_files_are_named_and_others_transcribed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.wav").write_text("no sound")
    assert run(model, str(tmp_path / "broken.wav"), str(SPEECH[0])) == 2
    captured = capsys.readouterr()
    assert f"{SPEECH[0]}:" in captured.out
    assert "not transcribed" in captured.err
    assert "broken.wav" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no sound file is named"),
        ([str(SPEECH[0]), str(SPEECH[0]), "--output", "out"], "several files are named"),
    ],
)
def test_mistakes_name_the_way_out(
    model: Path,
    tmp_path: Path,
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(model, *argv) == 2
    assert message in capsys.readouterr().err


def test_weights_that_speak_do_not_transcribe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ROOT / "demo/base", str(SPEECH[0])) == 2
    assert "the family csm does not transcribe" in capsys.readouterr().err
