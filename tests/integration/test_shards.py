"""pretokenize.py --shard for every family: merged, the content of one process."""

from pathlib import Path

import pytest

import pretokenize
from csm_ft.families.stores import open_store, verify
from tests.conftest import write_metadata
from tests.helpers.dialogues import write_dialogues

FAMILIES = {
    "csm": ("--codec", "melrvq"),
    "moonshine": ("--fit_tokenizer", "300"),
    "moshi": ("--codec", "melrvq", "--fit_tokenizer", "320"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_a_family_merge_without_loss(family: str, tmp_path: Path) -> None:
    if family == "moshi":
        metadata = write_dialogues(tmp_path, "train", 5)
    else:
        metadata = write_metadata(tmp_path / "train.json", "train", 12)
    command = ["--family", family, "--train_data", str(metadata), *FAMILIES[family]]
    command += ["--val_fraction", "0.3", "--device", "cpu"]
    whole, merged = tmp_path / "whole.hdf5", tmp_path / "merged.hdf5"
    assert pretokenize.main([*command, "--output", str(whole)]) == 0
    for shard in ("2/2", "1/2"):
        assert pretokenize.main([*command, "--output", str(merged), "--shard", shard]) == 0
    assert pretokenize.main([*command, "--output", str(merged)]) == 0
    assert verify(merged) == []
    assert open_store(merged).info == open_store(whole).info
