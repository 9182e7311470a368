"""Conversations from metadata to a sweep, as a user runs them."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pretokenize
import train
from csm_ft.sweep.trials import describe_data
from tests.integration.test_methods import SHORT
from tests.integration.test_train import ROOT, config_of, rows


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four conversations of five turns, and four clips by themselves; one to validate."""
    folder = tmp_path_factory.mktemp("talks")
    clips = json.loads((ROOT / "demo/new_voice/train.json").read_text())[:29]
    for i, clip in enumerate(clips):
        clip.update(
            path=str((ROOT / "demo/new_voice" / clip["path"]).resolve()),
            speaker=["ann", "bob"][i % 2],
        )
    train_rows = [{"turns": clips[5 * i : 5 * i + 5]} for i in range(4)] + clips[20:24]
    (folder / "train.json").write_text(json.dumps(train_rows))
    (folder / "val.json").write_text(json.dumps([{"turns": clips[24:29]}]))
    output = folder / "tokens.hdf5"
    argv = [
        "--train_data",
        str(folder / "train.json"),
        "--val_data",
        str(folder / "val.json"),
        "--output",
        str(output),
        "--codec",
        "melrvq",
    ]
    assert pretokenize.main(argv) == 0
    return output


def options(tokens: Path, run: Path, *more: str) -> list[str]:
    return ["--data", str(tokens), "--output_dir", str(run), *SHORT, *more]


@pytest.mark.parametrize(
    ("more", "examples"),
    [
        ([], 8),
        (["--loss_turns", "last"], 8),
        (
            ["--loss_turns", "speaker:bob"],
            6,
        ),  # the four conversations, and two of the four single clips
        (["--context_positions", "130"], 16),
    ],
)
def test_runs_and_sweeps_count_alike(
    talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], examples: int
) -> None:
    run = tmp_path / "run"
    assert train.main(options(talks, run, "--max_steps", "2", *more)) == 0
    said = capsys.readouterr().out
    assert re.search(
        rf"\d+ clips in {examples} examples to train on, 5 clips in 1 examples to validate", said
    )
    config = config_of(options(talks, run, *more))
    assert describe_data(config).num_train_examples == examples, (
        "a sweep counts what its trials see"
    )
    assert rows(run, "train")[-1]["epoch"] == pytest.approx(min(8, examples) / examples), (
        "two batches of 4 examples"
    )


def test_validation_ignores_what_is_learned(talks: Path, tmp_path: Path) -> None:
    def base(name: str, *more: str) -> float:
        assert train.main(options(talks, tmp_path / name, "--max_steps", "1", *more)) == 0
        return rows(tmp_path / name, "val")[0]["val_loss"]

    everything = base("all")
    assert base("last", "--loss_turns", "last", "--context_positions", "130") == everything
    assert base("bob", "--val_turns", "speaker:bob") != everything


def test_a_conversational_run_resumes_exactly(talks: Path, tmp_path: Path) -> None:
    more = "--loss_turns last --max_steps 5 --batch_size 3 --micro_batch_tokens 400".split()
    assert train.main(options(talks, tmp_path / "whole", *more)) == 0
    config = config_of(options(talks, tmp_path / "parts", *more, "--partial_data_loading"))
    paused: list[bool] = []
    assert (
        train.run(config, should_pause=lambda: len(paused.append(True) or paused) > 2).status
        == "interrupted"
    )
    assert train.run(config).status == "completed"
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    a, b = (
        load_file(tmp_path / name / "checkpoints/step_000005/model.safetensors")
        for name in ("whole", "parts")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_samples_follow_their_context(talks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        train.main(
            options(talks, run, "--max_steps", "1", "--gen_every", "1", "--gen_max_sec", "0.4")
        )
        == 0
    )
    last = [row for row in rows(run, "sample") if row["step"] == 1]
    assert [len(row["context"]) for row in last] == [0, 1]
    assert last[1]["context"][0]["speaker"] != last[1]["speaker"]
