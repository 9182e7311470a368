"""Tags from metadata to prompts: pretokenize.py, train.py, generate and export, as a user."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pretokenize
import train
from csm_ft.data.token_file import open_store
from csm_ft.export.__main__ import main as export
from csm_ft.families.csm.encoder import open_tokenizer
from csm_ft.generate.__main__ import main as generate
from tests.conftest import ROOT

CLIPS = sorted((ROOT / "demo/speech/nora").glob("*.flac"))[:6]
TEMPLATE = "[{speaker}]<{emotion}>?{text}"
TRAIN = ["--max_steps", "2", "--wandb", "off", "--threads", "1", "--device", "cpu"]


def write_rows(path: Path, emotions: list[str | None], **more: Any) -> Path:
    rows = [
        {"path": str(clip), "text": f"Text {i}.", "speaker": "nora", "emotion": emotion, **more}
        for i, (clip, emotion) in enumerate(zip(CLIPS, emotions, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encode(rows: Path, template: str, *more: str) -> int:
    output = rows.with_suffix(".hdf5")
    flags = ["--codec", "melrvq", "--text_template", template, "--output", str(output)]
    return pretokenize.main(["--train_data", str(rows), "--val_data", str(rows), *flags, *more])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = tmp_path_factory.mktemp("tags") / "rows.jsonl"
    assert encode(write_rows(rows, ["angry", "angry", "calm", "calm", None, None]), TEMPLATE) == 0
    return rows.with_suffix(".hdf5")


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    folder = store.parent / "run"
    prompts = store.parent / "prompts.json"
    prompts.write_text(json.dumps([{"text": "Go.", "emotion": "calm"}, {"text": "Go."}]))
    flags = ["--gen_prompts", str(prompts), "--gen_max_sec", "0.3", "--val_every", "2"]
    argv = ["--data", str(store), "--output_dir", str(folder), "--tag_dropout", "0.5"]
    assert train.main([*argv, *flags, *TRAIN]) == 0
    return folder


def test_store_keeps_rendered_text_and_tags(store: Path) -> None:
    opened = open_store(store)
    split, tokenizer = opened.splits["train"], open_tokenizer(codec="melrvq")
    assert opened.info.facts["template"] == TEMPLATE
    for row, text in ((0, "[nora]<angry>Text 0."), (4, "[nora]Text 4.")):
        np.testing.assert_array_equal(split.array("text_tokens", row), tokenizer.encode(text))
    untagged = tokenizer.encode("[nora]Text 0.")
    np.testing.assert_array_equal(split.array("untagged_tokens", 0), untagged)
    assert [split.tags(row) for row in (0, 4)] == [{"emotion": "angry"}, {}]


def test_few_clips_of_a_tag_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ["angry"] * 4 + ["calm"] * 2)
    assert encode(rows, TEMPLATE) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "angry 4, calm 2" in told
    assert "fewer than 100 clips of angry (4), calm (2)" in told


def test_rows_without_a_needed_tag_are_rejected(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ["angry"] * 5 + [None])
    assert encode(rows, "<{emotion}>{text}", "--max_rejected", "50%") == 0
    (first, *_) = Path(f"{rows.with_suffix('.hdf5')}.rejected.jsonl").read_text().splitlines()
    assert "emotion is missing" in first
    assert "make it optional with ?" in first


def test_column_that_no_row_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ["angry"] * 6)
    assert encode(rows, "<{mood}>{text}") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "names mood, but no row" in told
    assert "the rows have emotion" in told
    assert not rows.with_suffix(".hdf5").exists()


def test_samples_in_training_take_tags(run: Path) -> None:
    facts = [json.loads(p.read_text()) for p in run.glob("samples/*/step_000002.json")]
    assert [one.get("tags") for one in sorted(facts, key=str)] in (
        [{"emotion": "calm"}, None],
        [None, {"emotion": "calm"}],
    )


def say(model: Path, output: Path, *argv: str) -> int:
    flags = ["--output", str(output), "--max_sec", "0.3", "--device", "cpu", "--temperature", "0"]
    return generate(["--model", str(model), "--text", "Go.", *flags, *argv])


def test_generate_takes_tags(run: Path, tmp_path: Path) -> None:
    assert say(run, tmp_path, "--emotion", "angry") == 0
    assert say(run, tmp_path, "--tag", "emotion=calm") == 0
    facts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [one["tags"]["emotion"] for one in facts] == ["angry", "calm"]
    assert facts[0]["prompt"] != facts[1]["prompt"]
    assert "angry" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--emotion", "furious"], "never trained on it, but on angry (2 clips), calm (2 clips)"),
        (["--tag", "style=low"], "the model reads emotion"),
        (["--tag", "emotion"], "column=value"),
        (["--emotion", "calm", "--tag", "emotion=angry"], "keep one"),
    ],
)
def test_tags_that_were_never_heard_are_refused(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert say(run, tmp_path, *flags) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_export_knows_its_tags(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(run), "--format", "sesame", "--output", str(tmp_path / "export")]) == 0
    card = (tmp_path / "export/README.md").read_text()
    assert "`[0]<angry>Hello.` by the template `[{speaker}]<{emotion}>?{text}`" in card
    assert "It heard emotion angry, calm." in card
    assert say(tmp_path / "export", tmp_path / "out", "--emotion", "angry") == 0
    assert say(tmp_path / "export", tmp_path / "out", "--emotion", "furious") == 2
    assert "angry (2 clips)" in " ".join(capsys.readouterr().err.split())


def test_tag_dropout_without_tags_is_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(tokens), "--output_dir", str(tmp_path / "run"), "--tag_dropout", "0.1"]
    assert train.main([*argv, *TRAIN]) == 2
    assert "has no tags" in " ".join(capsys.readouterr().err.split())
