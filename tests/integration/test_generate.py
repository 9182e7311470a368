"""`generate` as a user runs it: weights of every kind, context, takes, files of prompts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import train
from csm_ft.export.__main__ import main as export
from csm_ft.families.base import Prompt, Sample
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.prompts import read_prompts
from csm_ft.generate.__main__ import main
from tests.conftest import ROOT

BASE = ROOT / "demo/base"
CLIPS = ROOT / "demo/speech/nora"
CONTEXT = [
    f"{CLIPS}/0081.flac:Could you give me the yellow camera?:nora",
    f"{CLIPS}/0082.flac:There are four flowers in the kitchen.:",
]
FAST = ["--max_sec", "1.2", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with prompts that have context."""
    folder = tmp_path_factory.mktemp("trained")
    prompts = [
        {
            "text": "It is here.",
            "context": [
                {"path": f"{CLIPS}/0081.flac", "text": "Could you give me the yellow camera?"}
            ],
        },
        "Yes.",
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    argv = [
        "--data",
        str(tokens),
        "--output_dir",
        str(folder / "run"),
        "--max_steps",
        "2",
        "--gen_max_sec",
        "0.5",
        "--val_every",
        "1",
    ]
    more = [
        "--gen_prompts",
        str(folder / "prompts.json"),
        "--gen_speaker",
        "nora",
        "--wandb",
        "off",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    assert train.main([*argv, *more]) == 0
    return folder / "run"


def generate(model: Path, output: Path, *argv: str) -> int:
    return main(["--model", str(model), "--output", str(output), *FAST, *argv])


def wav(path: Path) -> bytes:
    return path.read_bytes()


def test_training_samples_follow_their_context(run: Path) -> None:
    facts = [
        json.loads(path.read_text()) for path in sorted(run.glob("samples/*/step_000002.json"))
    ]
    assert sorted((one["text"], one["speaker"], len(one["context"])) for one in facts) == [
        ("It is here.", "nora", 1),
        ("Yes.", "nora", 0),
    ]
    assert len({one["prompt"] for one in facts}) == 2


def test_stdout_lists_the_files_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        generate(
            BASE,
            tmp_path,
            "--text",
            "Hello.",
            "--text",
            "The ferry leaves at noon.",
            "--speaker",
            "anna",
        )
        == 0
    )
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{tmp_path}/001-hello.wav",
        f"{tmp_path}/002-the-ferry-leaves-at-noon.wav",
    ]
    assert "1/2" in said.err
    assert "x real time" in said.err
    assert {p.name for p in tmp_path.iterdir()} == {
        ".lock", "index.html", "001-hello.wav", "001-hello.json", "002-the-ferry-leaves-at-noon.wav", "002-the-ferry-leaves-at-noon.json"
    }  # fmt: skip
    facts = json.loads((tmp_path / "001-hello.json").read_text())
    assert (facts["text"], facts["speaker"], facts["seed"], facts["take"], facts["context"]) == (
        "Hello.",
        "anna",
        0,
        1,
        [],
    )
    wave, rate = soundfile.read(tmp_path / "001-hello.wav")
    assert rate == 16000
    assert len(wave) / rate == facts["seconds"] <= 1.2
    assert facts["stopped_by_eos"] is facts["is_complete"] is (facts["seconds"] < 1.2)
    page = (tmp_path / "index.html").read_text()
    assert page.count("<audio") == 2
    assert "The ferry leaves at noon." in page


def test_samples_depend_on_seed_and_prompt_only(
    tmp_path: Path,
) -> None:
    texts = [
        "--text",
        "A red lamp.",
        "--text",
        "The ferry to the village leaves in ten minutes.",
        "--text",
        "Yes.",
    ]
    assert generate(BASE, tmp_path / "all", *texts, "--num_takes", "2") == 0
    assert generate(BASE, tmp_path / "alone", "--text", "Yes.") == 0
    assert generate(BASE, tmp_path / "second", "--text", "Yes.", "--seed", "1") == 0
    first, second = wav(tmp_path / "all/003-yes-take1.wav"), wav(tmp_path / "all/003-yes-take2.wav")
    assert first != second
    assert wav(tmp_path / "alone/001-yes.wav") == first
    assert wav(tmp_path / "second/001-yes.wav") == second
    assert generate(BASE, tmp_path / "batch", *texts, "--num_takes", "2", "--batch_size", "3") == 0
    codes = [
        len(soundfile.read(tmp_path / folder / "003-yes-take1.wav")[0])
        for folder in ("all", "batch")
    ]
    assert codes[0] == codes[1]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    for number in (1, 2):
        assert generate(BASE, tmp_path, "--text", "Hello.") == 0
        assert (tmp_path / f"{number:03d}-hello.wav").is_file()
    assert wav(tmp_path / "001-hello.wav") == wav(tmp_path / "002-hello.wav")
    assert (tmp_path / "index.html").read_text().count("<audio") == 2


def test_context_changes_the_sample(tmp_path: Path) -> None:
    assert generate(BASE, tmp_path, "--text", "It is here.", "--speaker", "ben") == 0
    assert (
        generate(
            BASE,
            tmp_path,
            "--text",
            "It is here.",
            "--speaker",
            "ben",
            "--context",
            CONTEXT[0],
            "--context",
            CONTEXT[1],
        )
        == 0
    )
    assert wav(tmp_path / "001-it-is-here.wav") != wav(tmp_path / "002-it-is-here.wav")
    facts = json.loads((tmp_path / "002-it-is-here.json").read_text())
    assert [(turn["speaker"], Path(turn["path"]).name) for turn in facts["context"]] == [
        ("nora", "0081.flac"),
        ("ben", "0082.flac"),
    ]
    assert facts["turns_left_out"] == 0
    page = (tmp_path / "index.html").read_text()
    assert "after 2 turns of context" in page
    assert "nora: Could you give me the yellow camera?" in page


def test_too_long_context_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contexts = [part for _ in range(60) for part in ("--context", CONTEXT[0])]
    assert generate(BASE, tmp_path, "--text", "It is here.", *contexts) == 0
    facts = json.loads((tmp_path / "001-it-is-here.json").read_text())
    assert 0 < facts["turns_left_out"] < 60
    assert (
        f"the oldest {facts['turns_left_out']} of 60 turns of context were left out"
        in capsys.readouterr().err
    )


def test_prompts_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(CLIPS / "0081.flac", tmp_path / "question.flac")
    context = [
        {
            "path": "question.flac",
            "text": "Could you give me the yellow camera?",
            "speaker": "nora",
            "end": 1.0,
        }
    ]
    prompts = [
        "Yes.",
        {"text": "It is here.", "speaker": "ben", "name": "Answer 1/2", "context": context},
        "Yes.",
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    assert (
        generate(
            BASE, tmp_path / "out", "--prompts", str(tmp_path / "prompts.json"), "--speaker", "anna"
        )
        == 0
    )
    said = capsys.readouterr()
    assert [Path(line).name for line in said.out.splitlines()] == [
        "001-yes.wav",
        "002-answer-1-2.wav",
    ]
    assert "1 prompts are asked for twice" in said.err
    assert json.loads((tmp_path / "out/002-answer-1-2.json").read_text())["context"][0][
        "seconds"
    ] == pytest.approx(1.04)


def test_run_checkpoint_and_export_agree(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(run), "--format", "sesame", "--output", str(tmp_path / "export")]) == 0
    models = [
        run,
        run / "checkpoints/best",
        run / "checkpoints/best/model.safetensors",
        run / "checkpoints",
        tmp_path / "export",
    ]
    for model in models:
        assert generate(model, tmp_path / "out", "--text", "Yes.") == 0
    said = capsys.readouterr().err
    assert said.count("speaker nora (the one the model was trained on)") == 5
    recordings = {wav(path) for path in (tmp_path / "out").glob("*.wav")}
    assert len(recordings) == 1
    assert generate(run, tmp_path / "out", "--text", "Yes.", "--speaker", "zoe") == 0
    assert "the model was not trained on speaker zoe, but on nora" in capsys.readouterr().err


def test_silent_model_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: object, prompts: list[Prompt], *_: object) -> list[Sample]:
        return [Sample(prompt, {"codes": np.zeros((0, 8), np.uint16)}) for prompt in prompts]

    monkeypatch.setattr(CsmModel, "sample", silent)
    assert generate(BASE, tmp_path, "--text", "Hello.") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no speech: the model stopped at once; try another --seed" in said.err
    assert json.loads((tmp_path / "001-hello.json").read_text())["seconds"] == 0
    # It would be silent again: it is told, and nothing is made again.
    assert generate(BASE, tmp_path, "--text", "Hello.", "--resume") == 1
    said = capsys.readouterr().err
    assert "1 samples are in" in said
    assert "1 of them have no speech: the model stopped at once" in said
    assert len(list(tmp_path.glob("*.wav"))) == 1


def test_resumed_folder_counts_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate(BASE, tmp_path, "--text", "Hello.", "--max_sec", "0.2") == 0
    monkeypatch.setattr(CsmModel, "sample", None)  # nothing is sampled any more
    assert generate(BASE, tmp_path, "--text", "Hello.", "--max_sec", "0.2", "--resume") == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "nowhere", "--text", "a"], "nowhere: no such file or folder"),
        (
            ["--model", str(BASE), "--text", "a", "--context", "none.wav:b:"],
            "none.wav: no such file; correct the clip's path",
        ),
        (["--model", str(BASE), "--text", "word " * 3000], "cut the text into several prompts"),
        (["--model", str(BASE), "--prompts", "none.json"], "none.json: No such file"),
        (
            [
                "--model",
                str(BASE),
                "--text",
                "a",
                "--codec",
                "melrvq",
                "--codec_source",
                str(BASE / "config.json"),
            ],
            "base: ",
        ),
    ],
)
def test_mistakes_leave_nothing_behind(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_interruption_keeps_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, calls = CsmModel.sample, []

    def interrupted(self: CsmModel, *arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, *arguments, **keywords)

    monkeypatch.setattr(CsmModel, "sample", interrupted)
    assert generate(BASE, tmp_path, "--text", "Hello.", "--num_takes", "5") == 130
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert (tmp_path / "index.html").read_text().count("<audio") == 2


def test_command_of_the_readme(tmp_path: Path) -> None:
    """As in the README, in a process of its own; Ctrl-C and pipes see nothing but paths."""
    argv = [
        sys.executable,
        "-m",
        "csm_ft.generate",
        "--model",
        "demo/base",
        "--text",
        "[bold]Hello.",
        "--output",
        str(tmp_path / "a [b]"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*argv, *FAST], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path}/a [b]/001-bold-hello.wav\n"
    assert f"{tmp_path}/a [b]/001-bold-hello.wav" in done.stderr


def test_readme_shows_a_prompt_file(tmp_path: Path) -> None:
    (example,) = [
        part.split("```")[0]
        for part in (ROOT / "README.md").read_text().split("```json\n")
        if '"context"' in part
    ]
    (tmp_path / "prompts.json").write_text(example)
    first, second = read_prompts(tmp_path / "prompts.json")
    assert (first.text, second.context[0].path) == ("A sentence.", tmp_path / "question.wav")


def test_hub_weights_use_mimi(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its size alone: Mimi and Llama's tokenizer; a clip of another rate and format."""
    argv = ["--model", "sesame/csm-1b", "--output", str(tmp_path), *FAST]
    assert main([*argv, "--text", "Yes.", "--context", CONTEXT[0]]) == 0
    assert "sesame/csm-1b: mimi and tokenizer by its size (32 codebooks)" in capsys.readouterr().err
    facts = json.loads((tmp_path / "001-yes.json").read_text())
    assert (facts["speaker"], facts["context"][0]["seconds"]) == (
        "0",
        pytest.approx(1.76, abs=0.09),
    )
    assert soundfile.info(tmp_path / "001-yes.wav").samplerate == 24000
