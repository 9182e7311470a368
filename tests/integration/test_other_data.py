"""Token files beside the one that is trained on: --replay and --canary, for several families."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pretokenize
import train
from csm_ft.report.run_page import build_run_page
from tests.conftest import write_metadata
from tests.helpers.killed import check_resume

COMMON = (
    *"--batch_size 4 --wandb off --device cpu --dtype fp32 --threads 1".split(),
    *"--val_every 2 --gen_every 0 --save_every 1 --log_every 1".split(),
    *"--max_steps 4 --learning_rate 1e-3".split(),
)
SMALL = "--model_dim 32 --model_ffn_dim 64 --model_heads 2 --model_encoder_layers 1".split()
FAMILIES = {
    "csm": (),
    "moonshine": ("--train_from_scratch", *SMALL, "--model_decoder_layers", "1"),
}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file of recordings with transcripts."""
    return listened(tmp_path_factory.mktemp("recordings"), "300")


def listened(folder: Path, vocabulary: str) -> Path:
    argv = ["--family", "moonshine", "--fit_tokenizer", vocabulary]
    argv += ["--output", str(folder / "asr.hdf5")]
    for split, count in (("train", 12), ("val", 4)):
        argv += [f"--{split}_data", str(write_metadata(folder / f"{split}.json", split, count))]
    assert pretokenize.main(argv) == 0
    return folder / "asr.hdf5"


@pytest.fixture(scope="module", params=FAMILIES)
def data(request: pytest.FixtureRequest) -> tuple[Path, tuple[str, ...]]:
    """A token file, and the options of its family."""
    name = "tokens" if request.param == "csm" else "recordings"
    return request.getfixturevalue(name), FAMILIES[request.param]


@pytest.fixture(scope="module")
def replayed(data: tuple[Path, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replayed") / "run"
    assert run(data, folder, *others(data[0])) == 0
    return folder


def others(tokens: Path) -> tuple[str, ...]:
    return "--replay", f"{tokens}:0.5", "--canary", str(tokens)


def run(data: tuple[Path, tuple[str, ...]], folder: Path, *more: str) -> int:
    tokens, options = data
    return train.main(
        ["--data", str(tokens), "--output_dir", str(folder), *options, *COMMON, *more]
    )


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints/step_000004/model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_canary_is_scored_at_every_validation(replayed: Path) -> None:
    found = rows(replayed, "val")
    assert [row["step"] for row in found] == [0, 2, 4]
    for row in found:
        names = [name for name in row if name.startswith("val_") and "canary" not in name]
        assert {"val_loss"} < set(names)
        # Here it is the validation split itself.
        own = {name: row[name] for name in names}
        assert own == {name: row[f"val_canary_{name[4:]}"] for name in names}


def test_replay_trains_more_sound_and_counts_its_own_data(
    data: tuple[Path, tuple[str, ...]], replayed: Path, tmp_path: Path
) -> None:
    assert run(data, tmp_path / "alone") == 0
    assert run(data, tmp_path / "watched", "--canary", str(data[0])) == 0
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "watched"))
    assert not same(weights(tmp_path / "alone"), weights(replayed))
    alone, more = (rows(folder, "train")[-1] for folder in (tmp_path / "alone", replayed))
    assert alone["examples"] == more["examples"] == 16
    assert more["micro_batches"] > alone["micro_batches"]


def test_resumed_run_equals_uninterrupted(
    data: tuple[Path, tuple[str, ...]], replayed: Path, tmp_path: Path
) -> None:
    check_resume(lambda folder: run(data, folder, *others(data[0])), tmp_path / "run", replayed)


def test_page_of_the_run_shows_both(replayed: Path) -> None:
    text = build_run_page(replayed).read_text()
    assert "val_canary_loss" in text


def test_other_family_and_other_tokenizer_are_refused(
    tokens: Path,
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asr = (recordings, FAMILIES["moonshine"])
    assert run(asr, tmp_path / "a", "--canary", str(tokens)) == 2
    assert "was pretokenised for the family csm, not for moonshine" in capsys.readouterr().err
    other = listened(tmp_path, "310")
    assert run(asr, tmp_path / "b", "--replay", f"{other}:0.5") == 2
    assert "its text is encoded otherwise than that of" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("value", ["general.hdf5", "general.hdf5:1.5", ":0.5", "a:b"])
def test_replay_needs_data_and_share(
    value: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run((recordings, ()), tmp_path / "run", "--replay", value) == 2
    assert "write DATA:SHARE" in capsys.readouterr().err


def test_resuming_with_other_replayed_content_is_refused(
    data: tuple[Path, tuple[str, ...]], replayed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = replayed / "env.json"
    kept = path.read_text()
    path.write_text(json.dumps({**json.loads(kept), "replay_fingerprint": "another"}))
    assert run(data, replayed, *others(data[0])) == 2
    assert "has other content than when the run began" in capsys.readouterr().err
    path.write_text(kept)
