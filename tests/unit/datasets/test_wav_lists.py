"""Lists without a header, told apart by what their columns hold."""

from pathlib import Path

import pytest

from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.tables import Columns
from csm_ft.errors import MetadataError

TEXTS = [
    "The ferry leaves at noon.",
    "There are four flowers in the kitchen.",
    "Could you give me the yellow camera?",
    "It was built in 1850 by Mr. Brown.",
]
WRITTEN_OUT = [*TEXTS[:3], "It was built in eighteen fifty by mister Brown."]
NAMES = ["anna", "ben", "anna", "ben"]


def write_list(folder: Path, *columns: list[str], ids: list[str] | None = None) -> Path:
    (folder / "wavs").mkdir()
    ids = ids or [f"a{number}" for number in range(len(columns[0]))]
    for number in range(len(columns[0])):
        (folder / f"wavs/a{number}.wav").touch()
    path = folder / "metadata.csv"
    path.write_text("".join(f"{'|'.join(row)}\n" for row in zip(ids, *columns, strict=True)))
    return path


@pytest.mark.parametrize(
    ("columns", "texts", "speakers"),
    [
        ((TEXTS,), TEXTS, [None] * 4),
        ((TEXTS, WRITTEN_OUT), WRITTEN_OUT, [None] * 4),
        ((TEXTS, [*WRITTEN_OUT[:3], ""]), TEXTS, [None] * 4),
        ((TEXTS, NAMES), TEXTS, NAMES),
        ((NAMES, TEXTS), TEXTS, NAMES),
        ((TEXTS, ["coqui"] * 4), TEXTS, ["coqui"] * 4),
        ((["0", "1", "1", "0"], TEXTS), TEXTS, ["0", "1", "1", "0"]),
    ],
    ids=["id|text", "normalised", "a gap", "id|text|speaker", "id|speaker|text", "one", "numbers"],
)
def test_columns_are_told_by_what_they_hold(
    tmp_path: Path,
    columns: tuple[list[str], ...],
    texts: list[str],
    speakers: list[str | None],
) -> None:
    rows, rejected = read_metadata(write_list(tmp_path, *columns))
    assert rejected == []
    assert [row.text for row in rows] == texts
    assert [row.speaker for row in rows] == speakers


@pytest.mark.parametrize(
    "third",
    [
        ["2.48", "3.10", "2.48", "2.48"],
        ["0,97", "0,97", "0,97", "0,97"],
        ["blue", "green", "red", "white"],
        ["Die Fähre fährt.", "Vier Blumen.", "Gib mir das.", "Er baute es."],
    ],
    ids=["seconds", "scores", "each its own", "a translation"],
)
def test_unclear_columns_are_asked_for(tmp_path: Path, third: list[str]) -> None:
    with pytest.raises(
        MetadataError, match=r"What is it\? Say which columns to read: --columns path=1"
    ) as found:
        read_metadata(write_list(tmp_path, TEXTS, third))
    assert repr(third[0]) in str(found.value)


@pytest.mark.parametrize("prefix", ["./wavs/", "wavs/", ""])
def test_ids_may_be_paths(tmp_path: Path, prefix: str) -> None:
    path = write_list(tmp_path, TEXTS, ids=[f"{prefix}a{number}.wav" for number in range(4)])
    rows, rejected = read_metadata(path)
    assert rejected == []
    assert [row.path for row in rows] == [tmp_path / f"wavs/a{number}.wav" for number in range(4)]


@pytest.mark.parametrize(
    "header", ["audio_file|text|speaker_name", "file_name|sentence|client_id", "path|text|speaker"]
)
def test_headers_of_other_programs_are_known(tmp_path: Path, header: str) -> None:
    path = write_list(tmp_path, TEXTS, NAMES, ids=[f"wavs/a{number}.wav" for number in range(4)])
    path.write_text(f"{header}\n{path.read_text()}")
    rows, rejected = read_metadata(path)
    assert rejected == []
    assert [row.speaker for row in rows] == NAMES


def test_own_names_win_over_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("path,text,speaker_name,speaker\na.wav,Hi.,Anna B.,7\nb.wav,Ho.,Ben C.,\n")
    rows, rejected = read_metadata(path)
    assert rejected == []
    assert [row.speaker for row in rows] == ["7", "Ben C."]


def test_numbered_columns_answer_the_question(tmp_path: Path) -> None:
    path = write_list(tmp_path, TEXTS, ["2.48", "1.20", "3.10", "0.90"], NAMES)
    numbers = Columns({"path": "1", "text": "2", "speaker": "4"})
    rows, rejections = read_metadata(path, columns=numbers)
    assert rejections == []
    assert [(row.text, row.speaker) for row in rows] == list(zip(TEXTS, NAMES, strict=True))
    assert all(row.path.is_file() for row in rows)
    _, rejections = read_metadata(path, columns=Columns({"path": "1", "text": "7"}))
    assert {one.reason.split(",")[0] for one in rejections} == {"has 4 fields between bars"}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_numbered_columns_of_a_table_without_header(tmp_path: Path, name: str) -> None:
    mark = {"t.csv": ";", "t.tsv": "\t"}[name]
    path = tmp_path / name
    path.write_text(f"a.wav{mark}x{mark}One.\nb.wav{mark}y{mark}Two.\n")
    rows, rejections = read_metadata(path, columns=Columns({"path": "1", "text": "3"}))
    assert ([row.text for row in rows], rejections) == (["One.", "Two."], [])


def test_list_in_utf_16_with_composed_names(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    for name in ("e\u0301te\u0301.wav", "b.wav"):
        (tmp_path / "wavs" / name).touch()
    path = tmp_path / "metadata.csv"
    path.write_bytes("été|Il fait chaud.\r\nb|Oui.\r\n".encode("utf-16"))
    rows, rejections = read_metadata(path)
    assert rejections == []
    assert [(row.text, row.path.is_file()) for row in rows] == [
        ("Il fait chaud.", True),
        ("Oui.", True),
    ]
    path.write_bytes("path|text\r\nwavs/b.wav|Oui.\r\n".encode("utf-16"))
    assert [row.text for row in read_metadata(path)[0]] == ["Oui."], "a header is no row"
