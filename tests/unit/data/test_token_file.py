"""The token file: what goes in comes out, mapped or not; anything else is refused with a way out."""

import json
import os
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csm_ft import atomic
from csm_ft.data import token_file
from csm_ft.data.measures import Measures
from csm_ft.data.split import Clip, Store, StoreInfo, content_fingerprint
from csm_ft.data.token_file import (
    family_of,
    is_token_file,
    open_store,
    read_hdf5_table,
    write_store,
)
from csm_ft.errors import MachineError, StoreError
from csm_ft.families.stores import verify
from tests.helpers.tables import ASSETS, FACTS, INFO, OTHER_INFO, Table, make_table, write

# What the program gave before its token files knew any other family: cached clips are found by it.
CONTENT, CONTENT_OF_TURNS = "5a823c7d09b4293089258cd8ea58d9b2", "79b119b25b5cdbce3d9c97c3dccb1a7b"


def assert_same(store: Store, tables: dict[str, Table]) -> None:
    for name, table in tables.items():
        split = store.splits[name]
        assert len(split) == len(table)
        assert [split.clip_id(i) for i in range(len(table))] == [clip.id for clip in table.clips]
        assert split.ids == [clip.id for clip in table.clips]
        for array, kind in store.info.arrays.items():
            np.testing.assert_array_equal(split.lengths(array), table.lengths(array))
            for i in range(len(table)):
                found = split.array(array, i)
                np.testing.assert_array_equal(found, table.array(array, i))
                assert found.dtype == np.dtype(kind.dtype)
                assert split.arrays(i)[array].tobytes() == found.tobytes()
        assert [split.clip(i) for i in range(len(table))] == list(table.clips)


words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), words, words), max_size=6)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(train=rows, val=rows, block=st.integers(1, 3), info=st.sampled_from([INFO, OTHER_INFO]))
def test_what_goes_in_comes_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: list[Any],
    val: list[Any],
    block: int,
    info: StoreInfo,
) -> None:
    monkeypatch.setattr(token_file, "_BLOCK_CLIPS", block)
    (sound, wide), (text, narrow) = info.arrays.items()
    tables = {}
    for name, drawn in (("train", train), ("val", val)):
        columns = {
            sound: [np.full((num, wide.width), 9, wide.dtype) for num, *_ in drawn],
            text: [np.arange(num).astype(narrow.dtype) for _, num, *_ in drawn],
        }
        clips = [
            Clip(f"{name}{spoken}{i}", spoken, speaker, "s", 0.1, 0.2, 0.1, 1)
            for i, (_, _, spoken, speaker) in enumerate(drawn)
        ]
        tables[name] = Table(columns, clips)
    path = tmp_path / "t.hdf5"
    written = write_store(path, info, tables, ASSETS)
    assert written.schema_version == 3
    assert replace(written, content_fingerprint="") == info
    for in_memory in (True, False):
        store = open_store(path, in_memory=in_memory)
        assert store.info == written
        assert content_fingerprint(store.splits) == written.content_fingerprint
        assert (store.asset("codec"), store.asset("nothing")) == (ASSETS["codec"], None)
        assert_same(store, tables)


def test_another_familys_arrays_come_out(tmp_path: Path) -> None:
    """Stereo samples and letters, with values at both ends of their ranges."""
    samples = [np.array([[-32768, 32767], [0, -1], [5, 6]], np.int16), np.zeros((0, 2), np.int16)]
    letters = [np.array([0, 255], np.uint8), np.array([32], np.uint8)]
    clips = [Clip(f"clip-{i}", "Hi", "", "a.wav", 0.0, 1.0, 1.0) for i in range(2)]
    table = Table({"samples": samples, "letters": letters}, clips)
    path = tmp_path / "t.hdf5"
    written = write_store(path, OTHER_INFO, {"train": table})
    for in_memory in (True, False):
        store = open_store(path, in_memory=in_memory)
        assert_same(store, {"train": table})
        assert (store.info, next(iter(store.info.arrays))) == (written, "samples")
        assert store.info.facts == {"alphabet": "bytes", "mean": -0.25, "order": 3}
    assert family_of(path) == "toy"
    changed = Table({**table.columns, "letters": [letters[0] ^ 1, letters[1]]}, clips)
    moved = Table({**table.columns, "samples": [samples[0][:2], samples[0][2:]]}, clips)
    prints = {
        write_store(tmp_path / "other.hdf5", OTHER_INFO, {"train": one}).content_fingerprint
        for one in (table, changed, moved)
    }
    assert len(prints) == 3
    assert written.content_fingerprint in prints


def test_arrays_cannot_take_reserved_names(tmp_path: Path) -> None:
    info = replace(OTHER_INFO, arrays={"text": OTHER_INFO.arrays["letters"]})
    with pytest.raises(AssertionError, match="an array cannot be called"):
        write_store(tmp_path / "t.hdf5", info, {})


# Content fingerprint


def plain_table(frames: list[int], name: str, conversation: str = "") -> Table:
    """Clips that are the same for ever: those that CONTENT was computed for."""
    codes = [(np.arange(n * 4).reshape(n, 4) * 7 % 255 + 1).astype(np.uint16) for n in frames]
    tokens = [(np.arange(3 + n % 5) * 11 % 400).astype(np.uint32) for n in frames]
    clips = [
        Clip(f"{name}-{i}", f"Text {i}", "7", "a.wav", 0.0, n * 0.08, n * 0.08)
        for i, n in enumerate(frames)
    ]
    if conversation:
        clips = [replace(clip, conversation=conversation, turn=i) for i, clip in enumerate(clips)]
    return Table({"codes": codes, "text_tokens": tokens}, clips)


@pytest.mark.parametrize(("conversation", "expected"), [("", CONTENT), ("talk", CONTENT_OF_TURNS)])
def test_content_fingerprints_never_change(
    tmp_path: Path, conversation: str, expected: str
) -> None:
    tables = {
        "train": plain_table([3, 1, 7], "train", conversation),
        "val": plain_table([2], "val"),
    }
    info = write_store(tmp_path / "t.hdf5", INFO, tables)
    assert info.content_fingerprint == expected
    assert content_fingerprint(open_store(tmp_path / "t.hdf5").splits) == expected


def test_the_fingerprint_knows_content_and_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table([3, 3, 3])
    codes, text = table.columns["codes"], table.columns["text_tokens"]

    def fingerprint(changed: Table) -> str:
        return write_store(tmp_path / "t.hdf5", INFO, {"train": changed}).content_fingerprint

    def with_codes(changed: list[np.ndarray]) -> Table:
        return replace(table, columns={**table.columns, "codes": changed})

    base = fingerprint(table)
    backwards = Table({"codes": codes[::-1], "text_tokens": text[::-1]}, table.clips[::-1])
    other_code = with_codes([codes[0] ^ 1, *codes[1:]])
    other_text = replace(table, columns={**table.columns, "text_tokens": [text[0] ^ 1, *text[1:]]})
    other_id = replace(table, clips=[replace(table.clips[0], id="x"), *table.clips[1:]])
    moved_frame = with_codes(np.split(np.concatenate(codes), [2, 6]))
    changed = (backwards, other_code, other_text, other_id, moved_frame)
    assert len({base, *map(fingerprint, changed)}) == 6
    assert write_store(tmp_path / "v.hdf5", INFO, {"val": table}).content_fingerprint != base
    same = replace(table, clips=[replace(clip, source="elsewhere.wav") for clip in table.clips])
    monkeypatch.setattr(token_file, "_BLOCK_CLIPS", 2)
    assert fingerprint(same) == base, (
        "neither the place of the files nor the size of blocks matters"
    )


# Earlier schemas


@pytest.mark.parametrize("in_memory", [True, False])
def test_files_without_measures_open(tmp_path: Path, in_memory: bool) -> None:
    path, measured = (
        write(tmp_path / "t.hdf5"),
        Measures(-20.0, 0.5, 0.25, 0.0, 3.0, -70.0, 0.5, 1.0, 180.0, 6.0),
    )
    table = make_table([3, 1])
    table.clips = [replace(clip, measures=measured) for clip in table.clips]
    write(path, table)
    assert open_store(path, in_memory=in_memory).splits["train"].clip(1).measures == measured
    content = open_store(path).info.content_fingerprint
    with h5py.File(path, "r+") as file:
        for name in Measures._fields:
            del file[f"train/{name}"]
    store = open_store(path, in_memory=in_memory)
    assert not store.splits["train"].clip(1).measures.are_known
    assert verify(path) == [], "no hash covers them"
    assert store.info.content_fingerprint == content


@pytest.mark.parametrize("in_memory", [True, False])
def test_tags_and_weights_come_back(tmp_path: Path, in_memory: bool) -> None:
    table, path = make_table([3, 1]), tmp_path / "t.hdf5"
    plain = write_store(path, INFO, {"train": table}).content_fingerprint
    table.clips = [replace(table.clips[0], tags={"emotion": "怒り"}, weight=0.25), table.clips[1]]
    weighted = write_store(path, INFO, {"train": table}).content_fingerprint
    split = open_store(path, in_memory=in_memory).splits["train"]
    assert [split.tags(i) for i in range(2)] == [{"emotion": "怒り"}, {}]
    assert split.weights.tolist() == [0.25, 1.0]
    assert split.clip(0) == table.clips[0]
    assert weighted != plain, "weights change the training"


@pytest.mark.parametrize("in_memory", [True, False])
def test_files_without_tags_and_weights_open(tmp_path: Path, in_memory: bool) -> None:
    path = write(tmp_path / "t.hdf5")
    with h5py.File(path, "r+") as file:
        for name in ("tags", "tags_offsets", "weight"):
            del file[f"train/{name}"]
            del file[f"val/{name}"]
    split = open_store(path, in_memory=in_memory).splits["train"]
    assert not split.has_tags
    assert set(split.weights) == {1.0}
    assert split.clip(0).tags == {}
    assert verify(path) == []


def to_schema_2(path: Path) -> None:
    """Turn a file into one of the program that knew CSM alone."""
    with h5py.File(path, "r+") as file:
        content = file.attrs["content_fingerprint"]
        for name in list(file.attrs):
            del file.attrs[name]
        own = {"family": "csm", "content_fingerprint": content, "schema_version": 2}
        for name, value in {**FACTS, **own}.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value


def to_schema_1(path: Path) -> None:
    to_schema_2(path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 1
        for name in ("conversation", "conversation_offsets", "turn"):
            del file[f"train/{name}"]
            del file[f"val/{name}"]


@pytest.mark.parametrize("downgrade", [to_schema_1, to_schema_2])
@pytest.mark.parametrize("in_memory", [True, False])
def test_files_of_earlier_schemas_open(tmp_path: Path, downgrade: Any, in_memory: bool) -> None:
    tables = {"train": plain_table([3, 1, 7], "train"), "val": plain_table([2], "val")}
    new = write_store(tmp_path / "t.hdf5", INFO, tables, ASSETS)
    downgrade(tmp_path / "t.hdf5")
    store = open_store(tmp_path / "t.hdf5", in_memory=in_memory)
    assert store.info.schema_version == {to_schema_1: 1, to_schema_2: 2}[downgrade]
    assert replace(store.info, schema_version=3) == new
    assert not store.splits["train"].has_conversations
    assert_same(store, tables)
    assert store.asset("codec") == ASSETS["codec"]
    assert family_of(tmp_path / "t.hdf5") == "csm"
    assert verify(tmp_path / "t.hdf5") == []


# Open files


def test_mapped_arrays_cannot_be_written(tmp_path: Path) -> None:
    split = open_store(write(tmp_path / "t.hdf5"), in_memory=False).splits["train"]
    codes = split.array("codes", 2)
    base = codes
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        open_store(tmp_path / "t.hdf5").splits["train"].array("codes", 0)[0] = 1
    with pytest.raises(IndexError, match="which has 3"):
        split.array("codes", 3)
    with pytest.raises(IndexError):
        split.array("codes", -1)


def test_blocks_are_all_rows_with_their_clips(tmp_path: Path) -> None:
    table = make_table([3, 0, 1, 7])
    split = open_store(write(tmp_path / "t.hdf5", table)).splits["train"]
    for name, column in table.columns.items():
        whole = np.concatenate([block for _, block in split.blocks(name)])
        np.testing.assert_array_equal(whole, np.concatenate(column))
        owners = [i for i, clip_rows in enumerate(column) for _ in clip_rows]
        assert [split.clip_at(name, row) for row in range(len(whole))] == owners


def _sum_codes(store: Store) -> int:
    return int(store.splits["train"].array("codes", 2).sum())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_open_store_works_in_forks(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "t.hdf5"), in_memory=False)
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(_sum_codes, (store,)) == _sum_codes(store)
        pool.close()  # to be terminated, a fork would need a parent whose handler of SIGTERM exits
        pool.join()
    store.path.unlink()
    assert _sum_codes(store) > 0, (
        "a file that is replaced meanwhile is still read by those who opened it"
    )


# Failures and damage


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    before = path.read_bytes()
    bad = make_table([3, 2], texts=["fine", "\ud800"])
    with pytest.raises(StoreError, match="drop or fix that row"):
        write_store(path, INFO, {"train": bad})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.hdf5")
    before = path.read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "fsync", full)
    with pytest.raises(MachineError, match=r"t\.hdf5 could not be written: No space left .*disk /"):
        write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_a_full_disk_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError(
            "Can't flush (file write failed: time = Thu Nov 26\n, filename = 't', errno = 28, error"
            " message = 'No space left on device')"
        )

    monkeypatch.setattr(h5py.File, "create_group", full)
    with pytest.raises(MachineError, match=r"written: No space left on device \(disk /"):
        write(tmp_path / "t.hdf5")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_lies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.hdf5")
    before = path.read_bytes()

    def rot(draft: Path) -> None:
        if draft.suffix == ".draft":
            with h5py.File(draft, "r+") as file:
                file["train/codes"][0, 0] ^= 1

    monkeypatch.setattr(token_file, "fsync", rot)
    with pytest.raises(StoreError, match="other bytes than were written"):
        write(path)
    assert path.read_bytes() == before


def _edit(path: Path, change: str) -> None:
    with h5py.File(path, "r+") as file:
        exec(change, {"file": file, "np": np})


DAMAGE = [
    ("file.attrs['schema_version'] = 9", "schema 9, this program reads 1"),
    ("del file.attrs['schema_version']", "not a token file"),
    ("del file.attrs['facts']", "damaged"),
    ("del file.attrs['arrays']", "damaged"),
    ("del file.attrs['family']", "damaged"),
    ("del file['train/codes']", "damaged"),
    ("del file['val']", "damaged"),
    ("del file['assets']", "damaged"),
    ("file['train/codes_offsets'][1] = 99", "do not fit"),
    ("file['train/codes_offsets'][0] = -1", "do not fit"),
    ("file['train/text_tokens_offsets'][-1] = 1", "do not fit"),
    ("del file['train/flags']; file['train/flags'] = np.zeros(2, 'u1')", "do not fit"),
    (
        "del file['train/codes']; file['train/codes'] = np.ones((11, 3), 'u2')",
        r"train/codes is uint16 \(11, 3\), not uint16 \[\*, 4\]",
    ),
    ("del file['train/codes']; file['train/codes'] = np.ones((11, 4), 'i4')", "int32"),
    ("del file['train/codes']; file['train/codes'] = np.ones((9, 4), 'u2')", "do not fit"),
    ("del file['train']; file['train'] = 3", "damaged"),
    ("file['train/id'][0] = 255", "damaged"),
    ("file.attrs['facts'] = 3", "damaged"),
    ("file.attrs['facts'] = '{'", "damaged"),
    ("file.attrs['arrays'] = '[]'", "damaged"),
    ("file.attrs['arrays'] = '{\"codes\": \"many\"}'", "damaged"),
    ("file.attrs['surprise'] = 3", "damaged"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
@pytest.mark.parametrize("in_memory", [True, False])
def test_damage_is_refused_by_name(
    tmp_path: Path, change: str, message: str, in_memory: bool
) -> None:
    path = write(tmp_path / "t.hdf5")
    _edit(path, change)
    with pytest.raises(StoreError, match=message) as error:
        open_store(path, in_memory=in_memory)
    assert "t.hdf5" in str(error.value)
    assert verify(path) != []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del file.attrs['template']", "damaged"),
        ("del file.attrs['frame_samples']", "damaged"),
        ("file.attrs['num_codebooks'] = 'many'", r"codes is uint16 \(11, 4\), not uint16"),
    ],
)
def test_damage_in_schema_2_is_refused(tmp_path: Path, change: str, message: str) -> None:
    path = write(tmp_path / "t.hdf5")
    to_schema_2(path)
    _edit(path, change)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_a_compressed_copy_cannot_be_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    _edit(
        path,
        "a = file['train/codes'][()]; del file['train/codes'];"
        " file['train'].create_dataset('codes', data=a, compression='gzip')",
    )
    assert len(open_store(path).splits["train"]) == 3, "it can be loaded"
    with pytest.raises(StoreError, match="cannot be mapped"):
        open_store(path, in_memory=False)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "t.hdf5", make_table([50] * 40))
    os.truncate(path, int(path.stat().st_size * share))
    for in_memory in (True, False):
        with pytest.raises(StoreError, match="damaged, cut short"):
            open_store(path, in_memory=in_memory)


@pytest.mark.parametrize("content", [b"", b"path,text\na.wav,Hello\n", os.urandom(3000)])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.hdf5").write_bytes(content)
    assert not is_token_file(tmp_path / "t.hdf5")
    assert family_of(tmp_path / "t.hdf5") == ""
    with pytest.raises(StoreError, match="another kind"):
        open_store(tmp_path / "t.hdf5")
    with pytest.raises(StoreError, match=r"pretokenize\.py --train_data"):
        open_store(tmp_path / "none.hdf5")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(data=st.data())
def test_flipped_bytes_are_refused_or_seen(tmp_path: Path, data: st.DataObject) -> None:
    """Never another exception, and never other codes without `verify` saying so."""
    path = tmp_path / "t.hdf5"
    if not path.exists():
        write(path)
    blob = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.hdf5"
    damaged.write_bytes(blob)
    problems = verify(damaged)
    if not problems:
        content = open_store(path).info.content_fingerprint
        assert content_fingerprint(open_store(damaged).splits) == content


def test_headers_carry_checksums(tmp_path: Path) -> None:
    """Without them a flipped byte in a header can crash HDF5 itself.

    The superblock is of version 2 or later.
    """
    assert write(tmp_path / "t.hdf5").read_bytes()[8] >= 2
    with h5py.File(tmp_path / "t.hdf5") as file:
        kinds = [file[f"train/{name}"].dtype for name in file["train"]]
        kinds += [file.attrs.get_id(name).dtype for name in file.attrs]
    assert not [kind for kind in kinds if kind.kind == "O"], (
        "nothing lies in a heap, which has no checksum"
    )


# Metadata in HDF5


@pytest.mark.parametrize("group", ["", "data/rows/"])
def test_columns_make_a_table(tmp_path: Path, group: str) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file[f"{group}path"] = ["a.wav", "b.wav"]
        file[f"{group}text"] = np.array(["Grüße".encode(), b"Hi"])
        file[f"{group}start"] = [0.5, 1.5]
    rows = read_hdf5_table(path)
    assert rows == [
        {"path": "a.wav", "start": 0.5, "text": "Grüße"},
        {"path": "b.wav", "start": 1.5, "text": "Hi"},
    ]
    json.dumps(rows)


def test_compounds_make_a_table(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    kinds = np.dtype([("path", h5py.string_dtype()), ("end", "f8"), ("speaker", "i4")])
    with h5py.File(path, "w") as file:
        file["table"] = np.array([("a.wav", 1.0, 3), ("b.wav", 2.0, 4)], dtype=kinds)
    assert read_hdf5_table(path) == [
        {"path": "a.wav", "end": 1.0, "speaker": 3},
        {"path": "b.wav", "end": 2.0, "speaker": 4},
    ]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["path"] = ["a.wav", "b.wav"]
        file["text"] = ["one"]
    with pytest.raises(StoreError, match="equal length"):
        read_hdf5_table(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(StoreError, match="found nothing"):
        read_hdf5_table(path)
    path.write_text("no")
    with pytest.raises(StoreError, match="not readable as HDF5"):
        read_hdf5_table(path)
