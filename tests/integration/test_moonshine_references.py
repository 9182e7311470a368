"""--keep_audio reference: the sound stays in its files, and everything else is the same."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import pretokenize
from csm_ft.data.references import ReferencedSplit
from csm_ft.data.split import Store
from csm_ft.errors import StoreError
from csm_ft.families.base import Draw
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.family import MoonshineFamily
from csm_ft.families.stores import open_tokens, verify
from tests.conftest import ROOT
from tests.integration.test_moonshine import SMALL, run

NUM_CLIPS = 8
BATCH_FIELDS = ("samples", "clip_lengths", "frame_rows", "inputs", "targets")


def write_data(folder: Path) -> Path:
    """Copy clips: some whole, some a span of their file, and a stereo one of another rate."""
    rows = json.loads((ROOT / "demo/new_voice/train.json").read_text())[:NUM_CLIPS]
    for number, row in enumerate(rows):
        wave, rate = soundfile.read(ROOT / "demo/new_voice" / row["path"])
        wave, rate = (np.stack([wave, 0 * wave], 1), 44100) if number == 1 else (wave, rate)
        row["path"] = f"{number}.flac"
        soundfile.write(folder / row["path"], wave, rate)
        row |= {"start": 0.1, "end": 0.7} if number % 2 else {}
        row |= {"channel": "left"} if number == 1 else {}
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("references")
    data = write_data(folder)
    found = {}
    for keep in ("copy", "reference"):
        found[keep] = folder / f"{keep}.hdf5"
        argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--amplitude", "peak"]
        argv += ["--train_data", str(data), "--keep_audio", keep, "--output", str(found[keep])]
        assert pretokenize.main(argv) == 0
    return found


@pytest.fixture
def moved(stores: dict[str, Path], tmp_path: Path) -> Path:
    """The same data in a folder of its own, pretokenised there, to be spoilt."""
    for path in stores["copy"].parent.glob("*.flac"):
        shutil.copy2(path, tmp_path)
    shutil.copy2(stores["copy"].parent / "rows.json", tmp_path)
    output = tmp_path / "tokens.hdf5"
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--keep_audio", "reference"]
    argv += ["--train_data", str(tmp_path / "rows.json"), "--output", str(output)]
    assert pretokenize.main(argv) == 0
    return output


def opened(path: Path) -> Store:
    return open_tokens(path, "moonshine", in_memory=False)


def test_content_is_that_of_kept_sound(stores: dict[str, Path]) -> None:
    copy, reference = (opened(stores[name]) for name in ("copy", "reference"))
    assert copy.info.content_fingerprint == reference.info.content_fingerprint
    assert isinstance(reference.splits["train"], ReferencedSplit)
    assert not isinstance(copy.splits["train"], ReferencedSplit)
    assert verify(stores["reference"]) == []
    num_bytes = sum(int(split.lengths("samples").sum()) * 2 for split in copy.splits.values())
    sizes = {name: path.stat().st_size for name, path in stores.items()}
    assert sizes["copy"] - sizes["reference"] == pytest.approx(num_bytes, rel=0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_kept_sound(stores: dict[str, Path], workers: int) -> None:
    config = MoonshineConfig(decode_workers=workers, speed_perturbation=0.1)
    family = MoonshineFamily()
    batches = []
    for path in stores.values():
        split = opened(path).splits["train"]
        examples = family.arrange(split, config, evaluate=False)
        indices = list(range(len(examples)))
        batches.append(family.collate(examples, indices, config, draw=Draw(0, 0)))
    for name in BATCH_FIELDS:
        ours, theirs = (getattr(batch, name) for batch in batches)
        assert torch.equal(ours, theirs), name


def test_same_command_encodes_nothing_again(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = opened(moved).info.content_fingerprint
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--keep_audio", "reference"]
    argv += ["--train_data", str(moved.parent / "rows.json"), "--output", str(moved)]
    assert pretokenize.main(argv) == 0
    assert "0 clips encoded now" in capsys.readouterr().out
    assert opened(moved).info.content_fingerprint == before


def test_files_that_changed_are_named(moved: Path) -> None:
    path = moved.parent / "3.flac"
    blob = path.read_bytes()
    os.utime(path, ns=(1, 1))  # touched, with the same bytes
    assert len(opened(moved).splits["train"])
    path.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))  # of the same size
    with pytest.raises(StoreError, match=r"3\.flac: has changed since it was pretokenised"):
        opened(moved)
    path.write_bytes(blob + b" ")
    with pytest.raises(StoreError, match=r"3\.flac: has changed .* pretokenise again"):
        opened(moved)
    path.unlink()
    with pytest.raises(StoreError, match=r"3\.flac: No such file .* put it back, or"):
        opened(moved)
    assert "3.flac" in verify(moved)[0]


def test_file_that_goes_while_training_is_named(moved: Path) -> None:
    split = opened(moved).splits["train"]
    split.array("samples", 0)
    for path in moved.parent.glob("*.flac"):
        path.unlink()
    for workers in (0, 1):
        with pytest.raises(StoreError, match=r"\.flac: .*put it back, or pretokenise again"):
            split.many("samples", [0, 1], workers)


def test_level_is_refused(stores: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--keep_audio", "reference"]
    argv += ["--train_data", str(stores["copy"].parent / "rows.json"), "--level_dbfs", "-25"]
    assert pretokenize.main([*argv, "--output", str(stores["copy"].parent / "level.hdf5")]) == 2
    assert "level_dbfs -25 changes the sound" in capsys.readouterr().err


@pytest.mark.slow
def test_training_is_that_of_kept_sound(stores: dict[str, Path], tmp_path: Path) -> None:
    weights = []
    for name, path in stores.items():
        argv = ["--train_from_scratch", *SMALL, "--max_steps", "2"]
        assert run(path, tmp_path / name, *argv) == 0
        weights.append(load_file(tmp_path / name / "checkpoints/step_000002/model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
