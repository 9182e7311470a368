"""Token files of any family: opened to train on, and verified."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from csm_ft.data.split import ArrayKind
from csm_ft.data.token_file import write_store
from csm_ft.errors import ConfigError, StoreError
from csm_ft.families import choose_family, family_of_file, named_family
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.stores import is_foreign, open_tokens, verify
from tests.helpers.tables import INFO, OTHER_INFO, Table, make_table, write


@pytest.mark.parametrize("in_memory", [True, False])
def test_another_familys_file_names_both(tmp_path: Path, in_memory: bool) -> None:
    clips = make_table([3]).clips
    samples, letters = [np.zeros((3, 2), np.int16)], [np.zeros(2, np.uint8)]
    table = Table({"samples": samples, "letters": letters}, clips)
    path = tmp_path / "t.hdf5"
    write_store(path, OTHER_INFO, {"train": table, "val": table})
    with pytest.raises(StoreError) as error:
        open_tokens(path, "csm", in_memory=in_memory)
    assert str(error.value) == (
        f"{path} was pretokenised for the family toy, not for csm; use --family toy, or pretokenise"
        " again with --family csm"
    )
    assert open_tokens(path, "toy", in_memory=in_memory).info.family == "toy"
    assert open_tokens(path, in_memory=in_memory).info.family == "toy", "any family will do"


def test_the_file_chooses_the_family(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    write(path, info=replace(INFO, family="moshi"))
    assert family_of_file(str(path)) == "moshi"
    assert choose_family(["--data", str(path)]) == "moshi"
    assert choose_family(["--data", str(path), "--family", "csm"]) == "csm"
    assert choose_family(["--data", str(path), "--help"]) == "csm", "no file is opened for help"
    assert choose_family(["--data", str(tmp_path / "none.hdf5")]) == "csm"


def test_missing_file_comes_with_the_command_of_its_family(tmp_path: Path) -> None:
    path = tmp_path / "none.hdf5"
    with pytest.raises(StoreError) as error:
        open_tokens(path, "moonshine", in_memory=True, option="replay")
    assert str(error.value) == (
        f"{path}: no such token file. Make it with\n  python pretokenize.py --family moonshine"
        f" --train_data train.json --val_data val.json --output {path}\nor name another with"
        " --replay"
    )


@pytest.mark.parametrize("choose", [choose_family, named_family])
def test_flags_of_other_families_name_them(choose: Callable[[Sequence[str]], str]) -> None:
    """Names of the Moonshine training guide, without a word on Moonshine."""
    for flag in ("--model", "--train_manifest", "--num_steps=5", "--keep_audio"):
        with pytest.raises(ConfigError, match="an option of the family moonshine, not of csm"):
            choose(["--batch_size", "4", flag])
    assert choose(["--n_trials", "4", "--unknown", "--depth_fraction", "0.5"]) == "csm"


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(tmp_path: Path, split: str) -> None:
    write(tmp_path / "t.hdf5", **{split: make_table([])})
    with pytest.raises(StoreError, match=f"has no {split} clips; pretokenise with --train_data"):
        open_tokens(tmp_path / "t.hdf5", "csm", in_memory=True)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"Make it with\n  python pretokenize\.py --train_data"):
        open_tokens(tmp_path / "t.hdf5", "csm", in_memory=True)


def test_our_own_files_are_not_foreign(tmp_path: Path) -> None:
    assert not is_foreign(write(tmp_path / "t.hdf5"))
    (tmp_path / "notes.txt").write_text("no HDF5")
    assert not is_foreign(tmp_path / "notes.txt")
    assert not is_foreign(tmp_path / "none.hdf5")


def test_verify_names_clips(tmp_path: Path) -> None:
    table = make_table([3, 2, 4, 0])
    table.columns["codes"][0][1] = 0
    table.columns["codes"][1][1, 2] = 300
    table.columns["text_tokens"][2][0] = 400
    problems = "\n".join(verify(write(tmp_path / "t.hdf5", table)))
    assert "train: 1 clips with an all-zero frame, which means end of speech: 0;" in problems
    assert "train: 1 clips with codes of 256 or more: 1;" in problems
    assert "train: 1 clips with text tokens of 400 or more: 2;" in problems
    assert "train: 1 clips with no frames: 3;" in problems
    assert "val" not in problems
    assert verify(write(tmp_path / "good.hdf5")) == []


def test_verify_names_turns_given_twice(tmp_path: Path) -> None:
    table = make_table([3, 2, 4])
    places = [("a", 0), ("a", 1), ("a", 1)]
    table.clips = [
        replace(clip, conversation=name, turn=turn)
        for clip, (name, turn) in zip(table.clips, places, strict=True)
    ]
    problems = verify(write(tmp_path / "t.hdf5", table))
    assert problems == [
        "train: 1 clips with the place of an earlier clip in its conversation: 2; pretokenise again"
    ]


def test_verify_sees_a_changed_code(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    with h5py.File(path, "r+") as file:
        file["train/codes"][0, 0] ^= 1
    assert ["bytes have changed" in problem for problem in verify(path)] == [True]


def test_verify_reads_any_number_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table([5, 2, 4])
    table.columns["codes"][2][3, 1] = 256
    path = write(tmp_path / "t.hdf5", table)
    whole = verify(path)
    monkeypatch.setattr("csm_ft.data.split.BLOCK_ROWS", 3)
    assert verify(path) == whole
    assert "codes of 256 or more: 2;" in whole[0]


def test_arrays_have_kinds() -> None:
    assert INFO.arrays == {"codes": ArrayKind("<u2", 4), "text_tokens": ArrayKind("<u4", 0)}


@pytest.mark.parametrize("name", CsmFamily.fact_names)
def test_lacking_fact_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "t.hdf5")
    with h5py.File(path, "r+") as file:
        facts = json.loads(file.attrs["facts"])
        del facts[name]
        file.attrs["facts"] = json.dumps(facts)
    assert verify(path) == [
        f"{path}: its facts lack {name}, which a token file of the family csm has; pretokenise"
        " again"
    ]


def test_missing_file_names_a_quoted_command(tmp_path: Path) -> None:
    path = tmp_path / "my data" / "tokens.hdf5"
    with pytest.raises(StoreError, match=f"--output '{path}'"):
        open_tokens(path, in_memory=True)
