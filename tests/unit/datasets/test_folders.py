"""A folder as metadata: the one table in it, the text file beside each sound, LJSpeech's list."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.folders import is_wav_list, one_table
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.sounds import SOUND_SUFFIXES
from csm_ft.datasets.tables import Columns
from csm_ft.datasets.tree import Tree
from csm_ft.errors import MetadataError


def write(path: Path, content: str | bytes = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(found: tuple[list[Row], list[Rejection]], folder: Path) -> dict[str, str]:
    rows, rejections = found
    assert rejections == [], rejections
    return {str(row.path.relative_to(folder)): row.text for row in rows}


# Sound files with transcripts


def test_sound_files_are_rows_with_texts_beside(tmp_path: Path) -> None:
    for name, text in (
        ("b.wav", "b.txt"),
        ("sub/a.FLAC", "sub/a.lab"),
        ("sub/deep/c.d.mp3", "sub/deep/c.d.normalized.txt"),
        ("e.ogg", "e.TXT"),
    ):
        write(tmp_path / name)
        write(tmp_path / text, f"\ufeff Text of {name},\r\n  two lines.\n")
    for name in (
        ".hidden/x.wav",
        "._b.wav",
        "README.md",
        "notes.txt",
        "b.original.txt",
        "cover.jpg",
    ):
        write(tmp_path / name)
    found = read_metadata(tmp_path)
    assert texts(found, tmp_path) == {
        n: f"Text of {n}, two lines." for n in ("b.wav", "e.ogg", "sub/a.FLAC", "sub/deep/c.d.mp3")
    }
    assert [row.where for row in found[0]] == [
        str(tmp_path / row.path.relative_to(tmp_path)) for row in found[0]
    ], "named by its file"
    assert {(row.speaker, row.start_sec, row.end_sec, row.conversation) for row in found[0]} == {
        (None, None, None, "")
    }


@pytest.mark.parametrize(
    ("transcript", "reason"),
    [
        (None, "no transcript; write what is said into a b.txt beside it"),
        (" \n", "a b.txt is empty; write what is said into it"),
        ("é".encode("latin-1"), "byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a\0b", "is UTF-16 or UTF-32 without a byte order mark, or no text at all"),
    ],
)
def test_sound_without_text_is_rejected(
    tmp_path: Path, transcript: str | bytes | None, reason: str
) -> None:
    write(tmp_path / "a b.wav")
    if transcript is not None:
        write(tmp_path / "a b.txt", transcript)
    write(tmp_path / "good.wav")
    write(tmp_path / "good.txt", "Good.")
    (row,), (rejection,) = read_metadata(tmp_path)
    assert row.text == "Good."
    assert (rejection.where, rejection.path, rejection.text) == (
        str(tmp_path / "a b.wav"),
        "./a b.wav",
        "",
    )
    assert reason in rejection.reason
    assert ";" in rejection.reason


def test_folder_is_no_transcript(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    (tmp_path / "a.txt").mkdir()
    _, (rejection,) = read_metadata(tmp_path)
    assert "no transcript; write what" in rejection.reason


def test_odd_file_names_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [" a.wav", "~/b.wav", "c:/d.wav", "ü 'x\"|;.wav"]
    for name in names:
        write(tmp_path / name)
        write((tmp_path / name).with_suffix(".txt"), name.strip())
    monkeypatch.chdir(tmp_path)
    rows, rejections = read_metadata(Path())
    assert rejections == []
    assert {row.path for row in rows} == {tmp_path / name for name in names}


def test_first_kind_of_text_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    for suffix in (".normalized.txt", ".lab", ".txt"):
        write(tmp_path / f"a{suffix}", suffix)
        assert texts(read_metadata(tmp_path), tmp_path) == {"a.wav": suffix}


def test_linked_folders_count_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.wav")
    write(tmp_path / "elsewhere/a.txt", "A.")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (row,), rejections = read_metadata(folder)
    assert rejections == []
    assert row.where == str(folder / "one/a.wav")


def test_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav")
    write(tmp_path / "sub/b.wav")
    scandir = os.scandir

    def refuse(folder: str) -> Any:
        if Path(folder).name == "sub":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MetadataError, match=r"sub: cannot be read: .*make it readable"):
        read_metadata(tmp_path)


def test_empty_folder_names_what_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    with pytest.raises(MetadataError) as error:
        read_metadata(tmp_path)
    for expected in (str(tmp_path), ".jsonl", ".wav", "a.txt beside it"):
        assert expected in str(error.value)


NAMES = st.text(st.sampled_from("ab.A é"), min_size=1, max_size=4).filter(
    lambda name: name.strip(".") and not name.startswith(".")
)


@settings(deadline=None, max_examples=60)
@given(
    st.sets(
        st.tuples(NAMES, st.sampled_from([".wav", ".flac", ".txt", ".lab", ".md"])),
        min_size=1,
        max_size=8,
    )
)
def test_one_row_per_sound_file(
    tmp_path_factory: pytest.TempPathFactory, files: set[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("wavs")
    for stem, suffix in files:
        write(folder / f"{stem}{suffix}", f"{stem}|{suffix}")
    sounds = {(stem, suffix) for stem, suffix in files if suffix in SOUND_SUFFIXES}
    sounds -= {(stem, ".flac") for stem, suffix in sounds if suffix == ".wav"}  # copies
    if not sounds:
        with pytest.raises(MetadataError):
            read_metadata(folder)
        return
    rows, rejections = read_metadata(folder)
    expected = {
        f"{stem}{suffix}": next(
            " ".join(f"{stem}|{text}".split()) for text in (".txt", ".lab") if (stem, text) in files
        )
        for stem, suffix in sounds
        if {(stem, ".txt"), (stem, ".lab")} & files
    }
    assert {row.path.name: row.text for row in rows} == expected
    assert {Path(r.path).name for r in rejections} == {
        f"{stem}{suffix}" for stem, suffix in sounds
    } - set(expected)
    assert [row.path for row in rows] == sorted(row.path for row in rows)


# One table in the folder


@pytest.mark.parametrize("name", ["metadata.csv", "train.json", "whatever.TSV"])
def test_only_metadata_file_is_read(tmp_path: Path, name: str) -> None:
    table = {
        ".csv": "path,text\na.wav,A.\n",
        ".json": json.dumps([{"path": "a.wav", "text": "A."}]),
        ".TSV": "path\ttext\na.wav\tA.\n",
    }
    write(tmp_path / name, table[Path(name).suffix])
    for other in (
        "b.wav",
        "b.txt",
        ".hidden.json",
        "tokens.hdf5.rejected.jsonl",
        "tokens.hdf5.report.json",
        "sub/other.json",
    ):
        write(tmp_path / other)
    with h5py.File(tmp_path / "tokens.hdf5", "w") as file:
        file.attrs["schema_version"] = 1
    assert one_table(Tree(tmp_path)) == tmp_path / name
    (row,), _ = read_metadata(tmp_path)
    assert (row.where, row.path) == (f"{tmp_path / name} row 1", tmp_path / "a.wav")


def test_several_metadata_files_are_refused(tmp_path: Path) -> None:
    for name in ("one.json", "two.json", "notes.txt"):
        write(tmp_path / name, "[]")
    with pytest.raises(
        MetadataError,
        match=(
            r"is a folder with 2 metadata files, one.json, two.json; name the one to read, as"
            r" .*one.json"
        ),
    ):
        read_metadata(tmp_path)


# LJSpeech's list


def ljspeech(folder: Path, lines: str, sounds: tuple[str, ...] = ()) -> Path:
    for name in sounds:
        write(folder / "wavs" / name)
    (folder / "wavs").mkdir(exist_ok=True)
    return write(folder / "metadata.csv", lines)


@pytest.mark.parametrize("named", [True, False])
def test_ljspeech_is_read_by_list_or_folder(tmp_path: Path, named: bool) -> None:
    lines = (
        'LJ1|In "1852, Mr. X|In "eighteen fifty-two, Mister X\nLJ2|As it is.|\r\n\nLJ3|Two'
        " fields.\nwavs/d.flac|A path.\ne.wav|A name.\n"
    )
    path = ljspeech(tmp_path, lines, ("LJ1.wav", "LJ2.flac", "LJ2.txt", "LJ3.wav", "LJ3.mp3"))
    assert texts(read_metadata(path if named else tmp_path), tmp_path) == {
        "wavs/LJ1.wav": 'In "eighteen fifty-two, Mister X',
        "wavs/LJ2.flac": "As it is.",
        "wavs/LJ3.wav": "Two fields.",
        "wavs/d.flac": "A path.",
        "wavs/e.wav": "A name.",
    }


def test_bad_rows_of_ljspeech_are_rejected(tmp_path: Path) -> None:
    path = ljspeech(tmp_path, "a|Fine.\nb|One|two|three\nc\nd||\n")
    (row,), rejections = read_metadata(path)
    assert (row.where, row.path) == (f"{path} row 1", tmp_path / "wavs/a.wav"), (
        "wavs/<id>.wav where there is no such file, to be named"
    )
    assert [(r.where.split()[-1], r.reason.split(";")[0]) for r in rejections] == [
        ("2", "has 4 fields between bars"),
        ("3", "has 1 fields between bars"),
        ("4", "text is missing or empty"),
    ]


def test_other_files_are_not_ljspeech(tmp_path: Path) -> None:
    path = ljspeech(tmp_path, "path|text\nwavs/a.wav|A header.\n")
    assert not is_wav_list(path, Columns())
    assert texts(read_metadata(path), tmp_path) == {"wavs/a.wav": "A header."}
    assert not is_wav_list(write(path, "id,text\na|b,c\n"), Columns())
    assert not is_wav_list(write(tmp_path / "metadata.json", "LJ1|Text.\n"), Columns())
    (tmp_path / "wavs").rmdir()
    assert not is_wav_list(write(path, "LJ1|Text.\n"), Columns()), "no folder wavs beside it"
