"""Tokens of J-Moshi's tools: the same streams come out as went in, and what does not fit is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import pretokenize
from csm_ft.data.token_file import open_store
from csm_ft.families.moshi.config import MoshiGenerateConfig
from csm_ft.families.moshi.data import text_of
from csm_ft.families.moshi.encoder import MoshiEncoder
from csm_ft.families.moshi.prompts import prompts_of_test_set
from csm_ft.families.moshi.size import HOLE
from csm_ft.families.moshi.tokenizer import fit_tokenizer
from csm_ft.families.stores import verify
from tests.helpers.dialogues import WORDS

PAD, END = 3, 0


def stream(random: np.random.Generator, num_frames: int) -> np.ndarray:
    """A text stream by J-Moshi's rule: an end of padding before every piece after padding."""
    text = np.full(num_frames, PAD)
    places = np.sort(random.choice(np.arange(1, num_frames), num_frames // 5, replace=False))
    text[places] = random.integers(270, 300, len(places))
    for place in places:
        if text[place - 1] == PAD:
            text[place - 1] = END
    return text


def dialogue(seed: int, num_frames: int, num_codebooks: int = 8) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    sides = {}
    for side in "AB":
        codes = random.integers(1, 256, (num_codebooks, num_frames))
        sides[side] = np.concatenate([stream(random, num_frames)[None], codes])
    return {"dialogue_id": f"test/{seed}", **sides}


def write_parquet(path: Path, dialogues: list[dict[str, Any]]) -> Path:
    rows = [{k: v.tolist() if k in "AB" else v for k, v in one.items()} for one in dialogues]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    model = tmp_path / "spiece.model"
    model.write_bytes(fit_tokenizer(WORDS * 3, 320).blob)
    argv = ["--family", "moshi", "--codec", "melrvq", "--tokenizer", str(model)]
    return [*argv, "--interleave", "characters", "--output", str(tmp_path / "tokens.hdf5")]


def check(tmp_path: Path, dialogues: list[dict[str, Any]]) -> None:
    assert verify(tmp_path / "tokens.hdf5") == []
    store = open_store(tmp_path / "tokens.hdf5")
    found = {}
    for split in store.splits.values():
        for row in range(len(split)):
            found[split.clip(row).source] = (split, row)
    assert len(found) == len(dialogues)
    for one in dialogues:
        split, row = found[one["dialogue_id"]]
        num_frames = one["A"].shape[1]
        for side, name in enumerate("AB"):
            codes = split.array("codes", row)[:, 8 * side : 8 * side + 8]
            assert (codes == one[name][1:].T).all()
            assert (text_of(split, row, side, (0, num_frames)) == one[name][0]).all()


def test_parquet_comes_out_as_it_went_in(tmp_path: Path, options: list[str]) -> None:
    dialogues = [dialogue(seed, 90 + seed) for seed in range(6)]
    path = write_parquet(tmp_path / "spokenwoz-001-of-001.parquet", dialogues)
    assert pretokenize.main([*options, "--train_data", str(path)]) == 0
    assert len(open_store(tmp_path / "tokens.hdf5").splits["val"]) == 1
    check(tmp_path, dialogues)


def test_pairs_of_npz_come_out_as_they_went_in(tmp_path: Path, options: list[str]) -> None:
    dialogues = [dialogue(seed, 80 + seed) for seed in range(4)]
    for folder in ("audio", "text"):
        (tmp_path / folder).mkdir()
    for one in dialogues:
        name = one["dialogue_id"] = one["dialogue_id"].replace("/", "-")
        np.savez(tmp_path / f"audio/{name}.npz", A=one["A"][1:], B=one["B"][1:])
        np.savez(tmp_path / f"text/{name}.npz", A=one["A"][0], B=one["B"][0])
    argv = [*options, "--train_data", str(tmp_path / "audio")]
    assert pretokenize.main([*argv, "--words_folder", str(tmp_path / "text")]) == 0
    check(tmp_path, dialogues)


def test_sources_have_weights(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {}
    for first, name in ((0, "a"), (10, "b"), (20, "val")):
        found = [dialogue(seed, 80) for seed in range(first, first + 4)]
        paths[name] = write_parquet(tmp_path / f"{name}.parquet", found)
    argv = [*options, "--val_data", str(paths["val"]), "--train_data"]
    assert pretokenize.main([*argv, f"{paths['a']}:3,{paths['b']}:1"]) == 0
    split = open_store(tmp_path / "tokens.hdf5").splits["train"]
    weights = {split.clip(row).source: split.clip(row).weight for row in range(len(split))}
    assert weights == {f"test/{n}": 1.5 for n in range(4)} | {
        f"test/{n}": 0.5 for n in range(10, 14)
    }
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert pretokenize.main([*argv, f"{paths['a']},{tmp_path / 'rows.jsonl'}"]) == 2
    assert "rows.jsonl holds no tokens, other sources do" in capsys.readouterr().err


def test_parquet_is_a_test_set(tmp_path: Path, options: list[str]) -> None:
    path = write_parquet(tmp_path / "test.parquet", [dialogue(seed, 90) for seed in range(3)])
    assert pretokenize.main([*options, "--train_data", str(path)]) == 0
    store = open_store(tmp_path / "tokens.hdf5")
    encoder = MoshiEncoder.from_store(store, "cpu")
    config = MoshiGenerateConfig(
        model="x", test_data=str(path), test_dialogues=2, prompt_sec=2, max_sec=1
    )
    prompts = prompts_of_test_set(config, encoder)
    assert [prompt.name for prompt in prompts] == ["test/0", "test/1"]
    tokens, known = prompts[0].arrays["tokens"], round(2 / 0.08)
    wanted = dialogue(0, 90)
    assert (tokens[:9, :known] == wanted["A"][:, :known]).all()
    assert (tokens[9:] == wanted["B"][1:, : tokens.shape[1]]).all()
    assert (tokens[:9, known:] == HOLE).all()


@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        ({"B": np.full((9, 50), PAD)}, [], "A is (9, 80), B is (9, 50)"),
        ({"A": np.full((5, 80), 5), "B": np.full((5, 80), 5)}, [], "--num_codebooks 4"),
        ({"A": np.full((9, 80), 999)}, [], "has the text id 999"),
        ({"A": np.concatenate([np.full((1, 80), PAD), np.full((8, 80), 256)])}, [], "the code 256"),
        ({}, ["--text_padding_id", "5"], "most frequent text id is 3"),
        ({}, ["--interleave", "drop"], "--interleave characters"),
        ({}, ["--fit_tokenizer", "400"], "--tokenizer"),
    ],
)
def test_tokens_that_do_not_fit_are_named(
    tmp_path: Path,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    more: list[str],
    says: str,
) -> None:
    rows = [dialogue(0, 80), {**dialogue(1, 80), **change}]
    path = write_parquet(tmp_path / "a.parquet", rows)
    assert pretokenize.main([*options, "--train_data", str(path), *more]) in (1, 2)
    assert says in capsys.readouterr().err
    assert not (tmp_path / "tokens.hdf5").exists()
