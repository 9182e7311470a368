"""Token files of the public CSM trainer open as if they were our own."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from csm_ft import atomic
from csm_ft.data.__main__ import describe
from csm_ft.errors import StoreError
from csm_ft.families.stores import is_foreign, open_store, verify


def write_public(path: Path, records: dict[str, list[tuple[np.ndarray, np.ndarray, int]]]) -> Path:
    """Write records as that trainer does: (codes [K, T] or empty, text tokens, length)."""
    ints = h5py.vlen_dtype(np.int32)
    with h5py.File(path, "w") as file:
        for name, rows in records.items():
            group = file.create_group(name)
            for column, dtype in (("audio", ints), ("text", ints), ("length", np.int32)):
                group.create_dataset(column, (len(rows),), dtype, maxshape=(None,))
            for i, (codes, text, length) in enumerate(rows):
                group["audio"][i], group["text"][i], group["length"][i] = (
                    codes.reshape(-1),
                    text,
                    length,
                )
    return path


def public_records(
    frames: Sequence[int], num_codebooks: int = 32
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    random = np.random.default_rng(0)
    return [
        (random.integers(1, 2048, (num_codebooks, n)), random.integers(0, 128256, 5), n + 6)
        for n in frames
    ]


@pytest.mark.parametrize("in_memory", [True, False])
def test_public_files_open_as_ours(tmp_path: Path, in_memory: bool) -> None:
    train, val = public_records([3, 7]), public_records([2])
    path = write_public(tmp_path / "p.hdf5", {"train": train, "val": val})
    store = open_store(path, in_memory=in_memory)
    assert store.path == path
    assert is_foreign(path)
    assert store.info.family == "csm"
    assert (store.info.sample_rate_hz, store.info.frame_sec) == (24000, 0.08)
    facts = store.info.facts
    assert (facts["codec"], facts["codec_source"]) == ("mimi", "kyutai/mimi")
    assert (facts["num_codebooks"], facts["codec_vocab_size"]) == (32, 2051)
    assert facts["text_vocab_size"] == 128256
    for name, records in (("train", train), ("val", val)):
        split = store.splits[name]
        for i, (codes, text, _) in enumerate(records):
            np.testing.assert_array_equal(split.array("codes", i), codes.T)
            np.testing.assert_array_equal(split.array("text_tokens", i), text)
        assert len(set(split.ids)) == len(records)
    assert store.splits["train"].clip(1).duration_sec == pytest.approx(0.56)
    again = open_store(path, in_memory=not in_memory)
    assert again.info.content_fingerprint == store.info.content_fingerprint
    assert again.splits["train"].ids == store.splits["train"].ids
    assert verify(path) == []


def test_a_changed_file_is_converted_again(tmp_path: Path) -> None:
    path = write_public(tmp_path / "p.hdf5", {"train": public_records([3, 7]), "val": []})
    assert len(open_store(path, in_memory=False).splits["train"]) == 2
    write_public(path, {"train": public_records([3, 7, 9]), "val": []})
    store = open_store(path, in_memory=False)
    assert (len(store.splits["train"]), len(store.splits["val"])) == (3, 0)
    assert len([p for p in tmp_path.iterdir() if p.name.endswith(".mapped")]) == 1, (
        "no copies of what is gone"
    )


def test_a_folder_without_room_for_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_public(tmp_path / "p.hdf5", {"train": public_records([3]), "val": []})

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left.*leave out --partial_data_loading"):
        open_store(path, in_memory=False)
    assert [p.name for p in tmp_path.iterdir()] == ["p.hdf5"]


def test_empty_public_records_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = (np.zeros((32, 0), int), np.zeros(0, int), 0)
    half_written = (np.ones((32, 2), int), np.ones(3, int), 0)
    path = write_public(
        tmp_path / "p.hdf5",
        {"train": [*public_records([3]), nothing, *public_records([4]), half_written], "val": []},
    )
    store = open_store(path)
    assert len(store.splits["train"]) == 2
    assert "train: 2 of 4 records are empty" in capsys.readouterr().err
    assert "left out: 1, 3" in describe(path)
    with h5py.File(path, "r+") as file:
        file["train/audio"].resize((6,))
    assert "2 records at the end are cut short" in " ".join(open_store(path).notes)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((np.ones(33, int), np.ones(5, int), 7), "record 1: 33 codes are not a multiple of 32"),
        ((np.ones(64, int), np.ones(5, int), 9), "length 9 is not 8 = 2 frames"),
        ((np.full(64, 2051), np.ones(5, int), 8), "audio code 2051 is not in"),
        ((np.full(64, -1), np.ones(5, int), 8), "audio code -1 is not in"),
        ((np.ones(64, int), np.full(5, 128256), 8), "text token 128256"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path: Path, record: tuple, message: str) -> None:
    path = write_public(tmp_path / "p.hdf5", {"train": [*public_records([3]), record], "val": []})
    with pytest.raises(StoreError, match=message) as error:
        open_store(path)
    assert "AUDIO" in str(error.value) or "TEXT" in str(error.value)


def test_the_environment_says_how_many_codebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_public(tmp_path / "p.hdf5", {"train": public_records([3], 8), "val": []})
    with pytest.raises(StoreError, match="AUDIO_NUM_CODEBOOKS"):
        open_store(path)
    monkeypatch.setenv("AUDIO_NUM_CODEBOOKS", "8")
    assert open_store(path).splits["train"].array("codes", 0).shape == (3, 8)
    assert open_store(path, in_memory=False).splits["train"].array("codes", 0).shape == (3, 8)
    monkeypatch.setenv("AUDIO_NUM_CODEBOOKS", "eight")
    with pytest.raises(StoreError, match="'eight'"):
        open_store(path)
