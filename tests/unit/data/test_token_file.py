"""The token file: what goes in comes out, mapped or not.

Anything else is refused with a way out.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csm_ft.data import token_file as store_module
from csm_ft.data.__main__ import main
from csm_ft.data.token_file import (
    Clip,
    Store,
    StoreError,
    StoreInfo,
    describe,
    open_store,
    read_hdf5_table,
    verify,
    write_store,
)
from csm_ft.data.split import DUPLICATE, content_fingerprint

INFO = StoreInfo(
    "csm", "melrvq", "x", "c0dec", 4, 256, 16000, 1280, "t", "t0ken", 400, "[{speaker}]{text}"
)
ASSETS = {"codec": b"\x00codec\xff", "tokenizer": b"{}"}
ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Table:
    """Clips in plain lists: the obvious slow version of a split."""

    all_codes: Sequence[np.ndarray]
    all_text: Sequence[np.ndarray]
    clips: Sequence[Clip]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def num_frames(self) -> np.ndarray:
        return np.array([len(c) for c in self.all_codes], np.int64)

    @property
    def num_text_tokens(self) -> np.ndarray:
        return np.array([len(t) for t in self.all_text], np.int64)

    def codes(self, index: int) -> np.ndarray:
        return self.all_codes[index]

    def text_tokens(self, index: int) -> np.ndarray:
        return self.all_text[index]

    def clip(self, index: int) -> Clip:
        return self.clips[index]


def make_table(frames: Sequence[int], seed: int = 0, texts: Sequence[str] | None = None) -> Table:
    random = np.random.default_rng(seed)
    return Table(
        [random.integers(1, 256, (n, 4)).astype(np.uint16) for n in frames],
        [random.integers(0, 400, 3 + n % 5).astype(np.uint32) for n in frames],
        [
            Clip(
                f"id-{seed}-{i}",
                texts[i] if texts else f"Grüße {i}",
                "7",
                f"a{i}.wav",
                0.5,
                0.5 + n * 0.08,
                n * 0.08,
            )
            for i, n in enumerate(frames)
        ],
    )


def write(
    path: Path, train: Table | None = None, val: Table | None = None, info: StoreInfo = INFO
) -> Path:
    train, val = train or make_table([3, 1, 7]), val or make_table([2], seed=1)
    write_store(path, info, {"train": train, "val": val}, ASSETS)
    return path


def assert_same(store: Store, tables: dict[str, Table]) -> None:
    for name, table in tables.items():
        split = store.splits[name]
        assert len(split) == len(table)
        assert split.ids == [clip.id for clip in table.clips]
        np.testing.assert_array_equal(split.num_frames, table.num_frames)
        np.testing.assert_array_equal(split.num_text_tokens, table.num_text_tokens)
        for i in range(len(table)):
            np.testing.assert_array_equal(split.codes(i), table.codes(i))
            np.testing.assert_array_equal(split.text_tokens(i), table.text_tokens(i))
            assert split.codes(i).dtype == np.uint16
            assert split.text_tokens(i).dtype == np.uint32
            assert split.clip(i) == table.clip(i)


words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), words, words), max_size=6)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(train=rows, val=rows, block=st.integers(1, 3))
def test_what_goes_in_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: list, val: list, block: int
) -> None:
    monkeypatch.setattr(store_module, "_BLOCK_CLIPS", block)
    tables = {}
    for name, drawn in (("train", train), ("val", val)):
        tables[name] = Table(
            [np.full((frames, 4), 9, np.uint16) for frames, *_ in drawn],
            [np.arange(tokens, dtype=np.uint32) for _, tokens, *_ in drawn],
            [
                Clip(f"{name}{i}", text, speaker, "s", 0.1, 0.2, 0.1, 1)
                for i, (_, _, text, speaker) in enumerate(drawn)
            ],
        )
    path = tmp_path / "t.hdf5"
    written = write_store(path, INFO, tables, ASSETS)
    for in_memory in (True, False):
        store = open_store(path, in_memory=in_memory)
        assert store.info == written
        assert (store.asset("codec"), store.asset("nothing")) == (ASSETS["codec"], None)
        assert_same(store, tables)


def test_the_fingerprint_knows_ids_codes_text_and_order_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table([3, 3, 3])

    def fingerprint(changed: Table) -> str:
        return write_store(tmp_path / "t.hdf5", INFO, {"train": changed}).content_fingerprint

    base = fingerprint(table)
    backwards = Table(table.all_codes[::-1], table.all_text[::-1], table.clips[::-1])
    other_code = replace(table, all_codes=[table.all_codes[0] ^ 1, *table.all_codes[1:]])
    other_text = replace(table, all_text=[table.all_text[0] ^ 1, *table.all_text[1:]])
    other_id = replace(table, clips=[replace(table.clips[0], id="x"), *table.clips[1:]])
    moved_frame = replace(table, all_codes=np.split(np.concatenate(table.all_codes), [2, 6]))
    assert (
        len({base, *map(fingerprint, (backwards, other_code, other_text, other_id, moved_frame))})
        == 6
    )
    assert write_store(tmp_path / "v.hdf5", INFO, {"val": table}).content_fingerprint != base
    same = replace(table, clips=[replace(clip, source="elsewhere.wav") for clip in table.clips])
    monkeypatch.setattr(store_module, "_BLOCK_CLIPS", 2)
    assert (
        fingerprint(same) == base
    ), "neither the place of the files nor the size of blocks matters"


def test_mapped_arrays_are_views_of_the_file_and_cannot_be_written(tmp_path: Path) -> None:
    split = open_store(write(tmp_path / "t.hdf5"), in_memory=False).splits["train"]
    codes = split.codes(2)
    base = codes
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        open_store(tmp_path / "t.hdf5").splits["train"].codes(0)[0] = 1
    with pytest.raises(IndexError, match="which has 3"):
        split.codes(3)
    with pytest.raises(IndexError):
        split.codes(-1)


def _sum_codes(store: Store) -> int:
    return int(store.splits["train"].codes(2).sum())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_open_store_works_in_forked_processes(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "t.hdf5"), in_memory=False)
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(_sum_codes, (store,)) == _sum_codes(store)
        pool.close()  # to be terminated, a fork would need a parent whose handler of SIGTERM exits
        pool.join()
    store.path.unlink()
    assert (
        _sum_codes(store) > 0
    ), "a file that is replaced meanwhile is still read by those who opened it"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    before = path.read_bytes()
    bad = make_table([3, 2], texts=["fine", "\ud800"])
    with pytest.raises(StoreError, match="drop or fix that row"):
        write_store(path, INFO, {"train": bad})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_a_disk_that_lies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.hdf5")
    before = path.read_bytes()

    def rot(draft: Path) -> None:
        if draft.suffix == ".draft":
            with h5py.File(draft, "r+") as file:
                file["train/codes"][0, 0] ^= 1

    monkeypatch.setattr(store_module, "fsync", rot)
    with pytest.raises(StoreError, match="other bytes than were written"):
        write(path)
    assert path.read_bytes() == before


def _edit(path: Path, change: str) -> None:
    with h5py.File(path, "r+") as file:
        exec(change, {"file": file, "np": np})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("file.attrs['schema_version'] = 9", "schema 9, this program reads 1"),
        ("del file.attrs['schema_version']", "not a token file"),
        ("del file.attrs['template']", "damaged"),
        ("del file['train/codes']", "damaged"),
        ("del file['val']", "damaged"),
        ("del file['assets']", "damaged"),
        ("file['train/codes_offsets'][1] = 99", "do not fit"),
        ("file['train/codes_offsets'][0] = -1", "do not fit"),
        ("file['train/text_tokens_offsets'][-1] = 1", "do not fit"),
        ("del file['train/flags']; file['train/flags'] = np.zeros(2, 'u1')", "do not fit"),
        ("del file['train/codes']; file['train/codes'] = np.ones((11, 3), 'u2')", "do not fit"),
        ("del file['train/codes']; file['train/codes'] = np.ones((11, 4), 'i4')", "int32"),
        ("del file['train']; file['train'] = 3", "damaged"),
        ("file['train/id'][0] = 255", "damaged"),
        ("file.attrs['codec'] = 3", "damaged"),
        ("file.attrs['num_codebooks'] = 'many'", "damaged"),
    ],
)
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


def test_a_compressed_copy_cannot_be_mapped_but_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    _edit(
        path,
        "a = file['train/codes'][()]; del file['train/codes'];"
        " file['train'].create_dataset('codes', data=a, compression='gzip')",
    )
    assert len(open_store(path).splits["train"]) == 3
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
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.hdf5").write_bytes(content)
    with pytest.raises(StoreError, match="another kind"):
        open_store(tmp_path / "t.hdf5")
    with pytest.raises(StoreError, match=r"pretokenize\.py --train_data"):
        open_store(tmp_path / "none.hdf5")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(data=st.data())
def test_flipped_bytes_are_refused_or_seen_by_verify_or_harmless(
    tmp_path: Path, data: st.DataObject
) -> None:
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
        assert (
            content_fingerprint(open_store(damaged).splits)
            == open_store(path).info.content_fingerprint
        )


def test_headers_carry_checksums(tmp_path: Path) -> None:
    """Without them a flipped byte in a header can crash HDF5 itself.

    The superblock is of version 2 or later.
    """
    assert write(tmp_path / "t.hdf5").read_bytes()[8] >= 2
    with h5py.File(tmp_path / "t.hdf5") as file:
        kinds = [file[f"train/{name}"].dtype for name in file["train"]] + [
            file.attrs.get_id(name).dtype for name in file.attrs
        ]
    assert not [
        kind for kind in kinds if kind.kind == "O"
    ], "nothing lies in a heap, which has no checksum"


def test_verify_names_clips(tmp_path: Path) -> None:
    table = make_table([3, 2, 4, 0])
    table.all_codes[0][1] = 0
    table.all_codes[1][1, 2] = 300
    table.all_text[2][0] = 400
    problems = "\n".join(verify(write(tmp_path / "t.hdf5", table)))
    assert "train: 1 clips with an all-zero frame, which means end of speech: 0;" in problems
    assert "train: 1 clips with codes of 256 or more: 1;" in problems
    assert "train: 1 clips with text tokens of 400 or more: 2;" in problems
    assert "train: 1 clips with no frames: 3;" in problems
    assert "val" not in problems
    assert verify(write(tmp_path / "good.hdf5")) == []


def test_verify_sees_a_single_changed_code(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    _edit(path, "file['train/codes'][0, 0] ^= 1")
    assert ["bytes have changed" in p for p in verify(path)] == [True]


def test_describe_says_what_is_inside(tmp_path: Path) -> None:
    table = make_table([13, 26, 400])
    table.clips = [*table.clips[:2], replace(table.clips[2], flags=DUPLICATE, speaker="Ann")]
    text = describe(
        write(tmp_path / "t.hdf5", table, replace(make_table([13]), clips=table.clips[:1]))
    )
    assert "3 clips  0.6 min  439 frames" in text
    assert "7 (2), Ann (1)" in text
    assert "1 clips repeat an earlier one" in text
    assert "1 validation clips are training clips, too" in text
    assert "melrvq, 4 codebooks of 256 ids, 16000 Hz, 12.5 frames per second" in text
    assert "c0dec" in text
    assert "t0ken" in text
    bars = [line.split() for line in text.splitlines() if "#" in line]
    assert [bar[:3] for bar in bars] == [["1-2", "s", "2"], ["2-4", "s", "1"], ["30-60", "s", "1"]]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.hdf5")
    assert main([str(path)]) == 0
    assert "3 clips" in capsys.readouterr().out
    assert main([str(path), "--decode", "3"]) == 2
    assert "has clips 0 to 2" in capsys.readouterr().err
    assert main([str(tmp_path / "none.hdf5")]) == 1
    _edit(path, "file['train/codes'][0, 0] ^= 1")
    assert main([str(path)]) == 1
    assert "bytes have changed" in capsys.readouterr().err


def test_verifying_imports_no_torch_and_needs_no_codec(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "csm_ft.data", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert "12.5 frames per second" in done.stdout
    assert "| torch" not in done.stderr.replace("  ", "")


# Metadata in HDF5


@pytest.mark.parametrize("group", ["", "data/rows/"])
def test_a_table_of_columns(tmp_path: Path, group: str) -> None:
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


def test_a_compound_table(tmp_path: Path) -> None:
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
