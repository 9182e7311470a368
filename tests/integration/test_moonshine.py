"""Moonshine through the programs: sound to token file, training, resume, transcripts, export."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

import pretokenize
import train
from csm_ft.data import audio
from csm_ft.data.token_file import open_store
from csm_ft.evaluate.__main__ import main as evaluate
from csm_ft.evaluate.recognise import RECOGNISER_HZ, open_recogniser
from csm_ft.export.__main__ import main as export
from csm_ft.families.exporter import Exportable
from csm_ft.families.moonshine.config import MoonshineConfig as Config
from csm_ft.families.moonshine.config import MoonshineGenerateConfig
from csm_ft.families.moonshine.export.transformers import TransformersExporter
from csm_ft.families.moonshine.family import MoonshineFamily
from csm_ft.families.stores import verify
from csm_ft.generate.__main__ import main as generate
from csm_ft.runs.encoder_record import find_record
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.samples_table import samples_table
from csm_ft.runs.source import find
from tests.conftest import ROOT, write_metadata
from tests.helpers.killed import check_resume
from tests.helpers.side_by_side import train_side_by_side

SMALL = "--model_dim 32 --model_ffn_dim 64 --model_heads 2 --model_encoder_layers 1".split()
SMALL += ["--model_decoder_layers", "1"]
OPTIONS = (
    *("--learning_rate", "2e-3", "--batch_size", "4", "--wandb", "off", "--device", "cpu"),
    *("--threads", "1", "--val_every", "2", "--gen_every", "4", "--save_every", "2"),
    *("--max_tokens_per_sec", "20", "--log_every", "2"),
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asr")
    output = folder / "asr.hdf5"
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--output", str(output)]
    for split, count in (("train", 12), ("val", 4)):
        argv += [f"--{split}_data", str(write_metadata(folder / f"{split}.json", split, count))]
    assert pretokenize.main(argv) == 0
    return output


def run(tokens: Path, output: Path, *more: str) -> int:
    return train.main(["--data", str(tokens), "--output_dir", str(output), *OPTIONS, *more])


@pytest.fixture(scope="module")
def trained(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(tokens, folder, "--train_from_scratch", *SMALL, "--max_steps", "4") == 0
    return folder


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_token_file_keeps_sound_and_tokenizer(tokens: Path) -> None:
    store = open_store(tokens)
    assert store.info.family == "moonshine"
    assert verify(tokens) == []
    assert store.asset("tokenizer") is not None
    split = store.splits["val"]
    assert split.lengths("samples")[0] == round(split.durations_sec[0] * 16000)


def test_cap_is_that_of_the_training_set(tokens: Path) -> None:
    store = open_store(tokens)
    split = store.splits["train"]
    rates = split.lengths("text_tokens") / (split.lengths("samples") / 16000)
    found = MoonshineFamily().choices(Config(), store)
    assert max(rates) <= found["max_tokens_per_sec"] <= max(rates) + 0.1
    assert found["max_tokens_per_sec"] > 6
    assert MoonshineFamily().choices(Config(max_tokens_per_sec=3), store) == {}


def test_same_command_encodes_nothing_again(
    tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_store(tokens).info.content_fingerprint
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--output", str(tokens)]
    for split in ("train", "val"):
        argv += [f"--{split}_data", str(tokens.parent / f"{split}.json")]
    assert pretokenize.main(argv) == 0
    assert "0 clips encoded now" in capsys.readouterr().out
    assert open_store(tokens).info.content_fingerprint == before


def test_validation_has_error_rates(trained: Path) -> None:
    metrics = rows(trained, "val")[-1]
    assert metrics["val_loss"] == metrics["val_tokens"]
    assert metrics["val_cer"] > 0
    assert 0 <= metrics["val_capped"] <= 1
    assert metrics["val_wer"] > 0
    assert metrics["val_wer_raw"] > 0
    parts = [metrics[f"val_{kind}"] for kind in ("insertions", "deletions", "substitutions")]
    assert sum(parts) == pytest.approx(metrics["val_wer"])
    assert 0 <= metrics["val_repeated"] <= 1
    record = json.loads((trained / "env.json").read_text())
    assert "rules basic of whisper-normalizer" in record["scored_by"]


def test_corpus_of_capitals_or_of_several_languages_is_named(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((tokens.parent / "train.json").read_text())
    languages = ["fr"] * 5 + ["en"] * (len(rows) - 5)
    shouted = [
        {**row, "text": row["text"].upper(), "language": language}
        for row, language in zip(rows, languages, strict=True)
    ]
    (tmp_path / "train.json").write_text(json.dumps(shouted))
    argv = ["--family", "moonshine", "--train_data", str(tmp_path / "train.json")]
    argv += ["--val_data", str(tokens.parent / "val.json"), "--fit_tokenizer", "300"]
    argv += ["--output", str(tmp_path / "asr.hdf5")]
    assert pretokenize.main(argv) == 0
    out = capsys.readouterr().out
    assert "12 of 12 training texts are in capitals" in out
    assert "languages  en (7), fr (5): val_wer compares all texts by the rules of" in out
    assert pretokenize.main([*argv, "--text_case", "sentence"]) == 0
    assert "are in capitals" not in capsys.readouterr().out


def test_samples_are_transcripts_beside_recordings(trained: Path) -> None:
    (sample, *_) = sorted(trained.glob("samples/*/step_000004.json"))
    facts = json.loads(sample.read_text())
    assert isinstance(facts["answer"], str)
    assert facts["text"]
    assert not list(trained.glob("samples/[!r]*/*.wav"))
    heard = {path.stem for path in (trained / "samples/reference").glob("*.wav")}
    assert heard == {path.parent.name for path in trained.glob("samples/[!r]*/step_000004.json")}
    table = samples_table(RunFolder(trained))
    assert table.columns[:4] == ["step", "reference", "hypothesis", "recording"]
    assert all(isinstance(row[3], Path) and row[3].is_file() for row in table.rows)


def test_resumed_run_equals_uninterrupted(tokens: Path, trained: Path, tmp_path: Path) -> None:
    scratch = ("--train_from_scratch", *SMALL, "--max_steps", "4")
    check_resume(lambda folder: run(tokens, folder, *scratch), tmp_path / "run", trained)


def test_recordings_are_transcribed(trained: Path, tmp_path: Path) -> None:
    audio = ROOT / "demo/speech/nora/0081.flac"
    argv = ["--model", str(trained), "--audio", str(audio), "--output", str(tmp_path / "out")]
    assert generate([*argv, "--device", "cpu"]) == 0
    facts = json.loads((tmp_path / "out/001-0081.json").read_text())
    assert isinstance(facts["answer"], str)


def test_run_judges_words(trained: Path) -> None:
    recogniser = open_recogniser(f"run:{trained}", "", "cpu")
    assert not isinstance(recogniser, str)
    assert recogniser.name == f"moonshine {trained.name}"
    wave = audio.load(ROOT / "demo/speech/nora/0082.flac", sample_rate_hz=RECOGNISER_HZ)
    assert isinstance(recogniser.hear(wave), str)


def test_evaluation_says_that_it_does_not_speak(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [str(trained), "--asr", "none", "--embedder", "none", "--output", str(out)]
    assert evaluate([*argv, "--device", "cpu"]) == 0
    found = json.loads((out / "evaluation.json").read_text())
    assert (
        "the family moonshine speaks no texts of these data: it is measured on them only"
        in found["notes"]
    )
    (row,) = found["rows"]
    best = min(rows(trained, "val"), key=lambda one: one["val_loss"])
    for name in ("wer", "cer", "deletions", "capped"):
        assert row["on_data"][name] == pytest.approx(best[f"val_{name}"])
    assert row["on_data"]["nats_tokens"] == pytest.approx(best["val_loss"], abs=1e-5)
    by_length = row["by_group"]["length"].values()
    assert all("wer" in measures for measures in by_length)


def test_transformers_reads_the_export(trained: Path) -> None:
    assert export([str(trained), "--format", "transformers"]) == 0
    folder = trained / "export-transformers"
    card = (folder / "README.md").read_text()
    assert "automatic-speech-recognition" in card
    assert "logits at 1, 10, 35 s differ by at most" in card
    assert "after the rules basic of whisper-normalizer" in card
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_normalize"] is False


def test_cap_of_the_run_is_that_of_its_transcripts(trained: Path, tmp_path: Path) -> None:
    """Of the run and of its export, whether csm_ft.transcribe or csm_ft.generate writes them."""
    folder, sound = tmp_path / "export", str(ROOT / "demo/speech/nora/0081.flac")
    assert export([str(trained), "--format", "transformers", "--output", str(folder)]) == 0
    family = MoonshineFamily()
    for weights in (trained, folder):
        record = find_record(find(str(weights)))
        assert family.open_listener(record, "cpu").max_tokens_per_sec == 20
        encoder = family.open_listener(record, "cpu")
        for chosen, cap in ((0, 20), (7, 7)):
            named = {"model": str(weights), "audio": [sound]}
            config = MoonshineGenerateConfig(**named, max_tokens_per_sec=chosen)
            family.generate_prompts(config, record, encoder)
            assert encoder.max_tokens_per_sec == cap


def test_export_says_that_recordings_need_the_level_of_training(tokens: Path) -> None:
    store = open_store(tokens)
    facts = {**store.info.facts, "amplitude": "peak"}
    at_peak = replace(store, info=replace(store.info, facts=facts))
    for kept, says in ((store, False), (at_peak, True)):
        source = Exportable("weights", "run", "", None, kept)
        assert ("abs(sound).max()" in TransformersExporter(source).snippet()) is says


@pytest.mark.slow
def test_onnxruntime_reads_the_export(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is read back are the texts of the run; the code of the model card runs, too."""
    output = tmp_path / "onnx"
    assert export([str(trained), "--format", "onnx", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "read back by onnxruntime: logits at 1, 10, 35 s differ by at most" in printed
    snippet = printed[printed.index("import numpy") :]
    wave = audio.load(ROOT / "demo/speech/nora/0081.flac", sample_rate_hz=16000)
    soundfile.write(tmp_path / "recording.wav", wave, 16000)
    assert any(path.suffix == ".onnx" for path in output.iterdir())
    (tmp_path / "run.py").write_text(snippet)
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_onnx_says_what_it_needs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(trained), "--format", "onnx"]
    assert export([*argv, "--dtype", "bf16"]) == 2
    assert "--format onnx writes fp32, not bf16" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert export(argv) == 2
    assert "pip install -r requirements-onnx.txt" in capsys.readouterr().err


def test_streaming_model_goes_through_the_programs(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From scratch, resumed, transcribed, and exported; then adapters on what was exported."""
    first = tmp_path / "first"
    argv = ["--train_from_scratch", "--model", "streaming-tiny", *SMALL, "--max_steps", "4"]
    assert run(tokens, first, *argv) == 0
    check_resume(lambda folder: run(tokens, folder, *argv), tmp_path / "run", first)
    assert rows(first, "val")[-1]["val_wer"] > 0
    audio_ = str(ROOT / "demo/speech/nora/0081.flac")
    argv = ["--model", str(first), "--audio", audio_, "--output", str(tmp_path / "out")]
    assert generate([*argv, "--device", "cpu"]) == 0
    assert export([str(first), "--format", "transformers"]) == 0
    folder = first / "export-transformers"
    assert "read back by transformers" in capsys.readouterr().out
    processor = json.loads((folder / "preprocessor_config.json").read_text())["processor_class"]
    assert processor == "MoonshineStreamingProcessor"
    argv = ["--model_name_or_checkpoint_path", str(folder), "--method", "lora", "--max_steps", "2"]
    assert run(tokens, tmp_path / "lora", *argv) == 0
    assert run(tokens, tmp_path / "other", *argv, "--model_dim", "64") == 2
    assert "the flags model_dim contradict the checkpoint" in capsys.readouterr().err
    assert export([str(first), "--format", "onnx"]) == 2
    assert "is for the first generation" in capsys.readouterr().err


def test_adapters_train_on_weights_of_transformers(tokens: Path, tmp_path: Path) -> None:
    """Weights that the library itself saved; a run of adapters goes through the export, too."""
    vocab_size = open_store(tokens).info.facts["text_vocab_size"]
    config = MoonshineConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        pad_token_id=2,
    )
    base = tmp_path / "base"
    MoonshineForConditionalGeneration(config).save_pretrained(str(base))
    argv = ["--model_name_or_checkpoint_path", str(base), "--method", "lora", "--max_steps", "2"]
    assert run(tokens, tmp_path / "run", *argv) == 0
    best = tmp_path / "run/checkpoints/best"
    assert (best / "adapter_model.safetensors").is_file()
    assert export([str(tmp_path / "run"), "--format", "transformers"]) == 0
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (saved["family"], saved["method"]) == ("moonshine", "lora")


def test_tokens_of_csm_are_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(tokens), "--family", "csm", "--output_dir", str(tmp_path / "run")]
    assert train.main(argv) == 2
    assert "was pretokenised for the family moonshine, not for csm" in capsys.readouterr().err


def test_tokenizer_of_ones_own_needs_a_model_from_scratch(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokens, tmp_path / "run") == 2
    assert "--train_from_scratch" in capsys.readouterr().err


def test_tokenizer_of_another_base_is_refused(
    tokens: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many ids do not make them the same ones; a run's token file has those of the run."""
    base = ("--model_name_or_checkpoint_path", str(trained), "--max_steps", "1")
    data = [f"--{split}_data={tokens.with_name(f'{split}.json')}" for split in ("train", "val")]
    ways = {"other": ("--fit_tokenizer", "300"), "same": ("--tokenizer", str(tokens))}
    for name, way in ways.items():
        output = tmp_path / f"{name}.hdf5"
        argv = ["--family", "moonshine", *data, *way, "--text_case", "lower"]
        assert pretokenize.main([*argv, "--output", str(output)]) == 0
    assert run(tmp_path / "other.hdf5", tmp_path / "run", *base) == 2
    assert "the text ids of another tokenizer (fitted)" in capsys.readouterr().err
    assert run(tmp_path / "same.hdf5", tmp_path / "run", *base) == 0


@pytest.mark.parametrize("size", ["base", "streaming-tiny"])
def test_size_that_the_weights_have_not_is_refused(
    tokens: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    base = ("--model_name_or_checkpoint_path", str(trained))
    assert run(tokens, tmp_path / "run", *base, "--model", size) == 2
    message = capsys.readouterr().err
    assert f"name weights of that size, as UsefulSensors/moonshine-{size}" in message
    assert "--train_from_scratch" in message


def test_training_guide_is_understood(tmp_path: Path) -> None:
    """Its manifests and names of options, and the scratch settings of the paper."""
    names = {}
    for split, count in (("train", 6), ("val", 2)):
        rows_ = json.loads(write_metadata(tmp_path / f"{split}.json", split, count).read_text())
        names[split] = tmp_path / f"{split}.jsonl"
        lines = [
            {
                "audio": row["path"],
                "text": row["text"],
                "duration": soundfile.info(row["path"]).duration,
            }
            for row in rows_
        ]
        names[split].write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    output = tmp_path / "asr.hdf5"
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--output", str(output)]
    for split, path in names.items():
        argv += [f"--{split}_manifest", str(path)]
    assert pretokenize.main(argv) == 0
    assert len(open_store(output).splits["train"]) == 6
    argv = ["--data", str(output), "--output_dir", str(tmp_path / "run"), *SMALL]
    argv += ["--model", "base", "--num_steps", "2", "--batch_size", "2", "--wandb", "off"]
    argv += ["--train_from_scratch", "--gen_every", "0", "--optimizer", "schedulefree"]
    assert train.main([*argv, "--device", "cpu", "--val_wer_clips", "0"]) == 0
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (saved["model_size"], saved["max_steps"]) == ("base", 2)


def test_adapters_side_by_side_equal_runs_alone(
    tokens: Path, trained: Path, tmp_path: Path
) -> None:
    runs: list[dict[str, Any]] = [
        {"label_smoothing": 0.1, "time_mask_sec": 0.1},
        {"batch_size": 3, "speed_perturbation": 0.1, "seed": 7},
        {"lora_rank": 2, "lora_rslora": True, "learning_rate": 1e-3},
    ]
    base = {"data": str(tokens), "model_name_or_checkpoint_path": str(trained)}
    train_side_by_side(Config, runs, tmp_path, **base, max_tokens_per_sec=20.0)
