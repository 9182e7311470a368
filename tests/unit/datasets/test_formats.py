import gzip
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.datasets.formats import read_table
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.tables import Columns
from csm_ft.errors import MetadataError

PIECES = [
    *'[]{}",:|;\t\n\r\\ ',
    '"path"',
    '"text"',
    "path",
    "text",
    "a.wav",
    "1e999",
    "NaN",
    "true",
    "\ufeff",
]
SUFFIXES = [".json", ".jsonl", ".csv", ".tsv", ".sqlite", ".parquet", ".h5"]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path: Path) -> list[Any]:
    _, rows = read_table(path, sql_table="data", columns=Columns(), tell=print)
    return [row["text"] if isinstance(row, dict) else row for row in rows]


def message(path: Path, **options: Any) -> str:
    with pytest.raises(MetadataError) as error:
        read_metadata(path, **options)
    assert str(error.value).startswith(str(path)), "the message begins with the file"
    assert ";" in str(error.value) or ":" in str(error.value).removeprefix(str(path)), (
        "and names a way out"
    )
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.txt", "path,text\n", "suffix '.txt' is not one of .json .jsonl"),
        ("t", "x", "suffix '' is not one of"),
        ("t.json", "", "not JSON"),
        ("t.json", "[]", "holds no rows"),
        ("t.json", "3", "holds 3; write an array of objects"),
        ("t.json", '{"path": ["a"], "text": ["b"]}', "holds an object with 'path', 'text'; write an array"),
        ("t.json", '{"data": 3}', "holds an object with 'data'"),
        ("t.json", '{"data": [], "data": []}', "twice"),
        ("t.json", '[{"path": "a"}, {"file": "b"}]', "no column for text"),
        ("t.json", '[{"path": "a", "text": "b"}\n {"path": 3}]', "line 2 column 2: not JSON: Expecting ',' delimiter"),
        ("t.json", "[" * 100_000, "not JSON that can be read"),
        ("t.json", "[" + "1" * 5000 + "]", "not JSON that can be read"),
        ("t.jsonl", '[{"path": "a", "text": "b"}]', "name it .json"),
        ("t.jsonl", '[\n{"path": "a", "text": "b"}\n]', "name it .json"),
        ("t.jsonl", "\n\n", "holds no rows"),
        ("t.csv", "", "holds no rows"),
        ("t.csv", "path,text\n", "holds no rows"),
        ("t.csv", "path,text,Path \na,b,c\n", "has column 'path' twice"),
        ("t.csv", "LJ001-0001|Printing, in the only sense\nLJ001-0002|x, y\n", "no column for path and text; needed are path (or"),
        ("t.csv", 'LJ001-0001|Printing, in the only "sense\n', "no column for path and text; needed are path (or"),
        ("t.csv", 'path,text\na.wav,"Hello," she said\n', "line 2: ',' expected after"),
        ("t.csv", 'path,text\na.wav,"Hello\nb.wav,x\n', "unexpected end of data"),
        ("t.csv", "path,text\na,é\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
        ("t.csv", "path,text\na,b\n".encode("utf-16-le"), "is UTF-16"),
        ("t.sqlite", "CREATE TABLE data (path, text);", "is no SQLite file; load an SQL dump"),
        ("t.sql", b"SQLite format 3\0" + bytes(200), "not readable as SQLite"),
        ("t.parquet", "PAR1", "not readable as parquet"),
        ("t.h5", "HDF", "not readable as an HDF5 table"),
    ],
)  # fmt: skip
def test_unreadable_file_names_reason_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    assert expected in message(write(tmp_path, name, content))


def test_missing_file_and_empty_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "t.json")
    (tmp_path / "u.json").mkdir()
    assert "is a folder with neither a metadata file" in message(tmp_path / "u.json")
    assert "cannot be read" in message(tmp_path / ("x" * 300 + ".json"))


def test_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "t.csv", "path,text\r\na,é\r\n".encode("utf-8-sig"))) == ["é"]
    assert texts(write(tmp_path, "t.json", '[{"path": "a", "text": "é"}]'.encode("utf-8-sig"))) == [
        "é"
    ]


def test_json_rows_may_stand_under_data(tmp_path: Path) -> None:
    assert texts(
        write(tmp_path, "t.JSON", '{"version": 1, "data": [{"path": "a", "text": "b"},]}')
    ) == ["b"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=3), max_size=4))
def test_trailing_commas_change_nothing_else(rows: list[dict[str, str]]) -> None:
    """Compare with writing the commas where a person does, behind every last item.

    Whatever stands in the strings.
    """
    rows = [{"path": "a", "text": ',}",]', **row} for row in rows] or [{"path": "a", "text": ","}]
    sloppy = (
        "["
        + "".join(
            "{" + "".join(f"{json.dumps(k)}: {json.dumps(v)}, " for k, v in row.items()) + "},\n"
            for row in rows
        )
        + "]"
    )
    with tempfile.TemporaryDirectory() as folder:
        _, found = read_table(
            write(Path(folder), "t.json", sloppy), sql_table="", columns=Columns(), tell=print
        )
    assert list(found) == rows


def test_json_rows_without_objects_are_rejected(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "t.json",
        '[{"path": "a", "text": "b"}, "x", ["a", "b"], {"path": "a", "path": "c", "text": "d"},'
        " null]",
    )
    rows, rejections = read_metadata(path)
    assert len(rows) == 1
    assert [r.reason.split(";")[0] for r in rejections] == [
        "the row is 'x', not an object",
        "the row is ['a', 'b'], not an object",
        "the object has 'path' twice",
        "the row is None, not an object",
    ]


def test_torn_jsonl_line_costs_one_row(tmp_path: Path) -> None:
    lines = [
        '{"path": "a", "text": "line\u2028separator"}',
        "",
        '{"path": "b", "te',
        '{"path": "c", "text": "d"}\r',
        "1" * 5000,
    ]
    good, torn, last, number = texts(write(tmp_path, "t.jsonl", "\n".join(lines)))
    assert (good, last) == ("line\u2028separator", "d")
    assert "not JSON" in torn.reason
    assert "not JSON" in number.reason


def test_csv_rows_of_wrong_length(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "t.csv", 'path,text,speaker\na,Hello, world,3\nb,fine\n\nc, "x, y",4\n')
    torn, short, quoted = texts(path)
    assert torn.reason == "has 4 fields where the header has 3; put a text with ',' in it in quotes"
    assert (short, quoted.strip()) == ("fine", "x, y")


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_header_decides_csv_delimiter(tmp_path: Path, mark: str) -> None:
    assert texts(
        write(tmp_path, "t.csv", f'"speaker"{mark}"path"{mark}text\n1{mark}a.wav{mark}Hello, you\n')
    ) == ["Hello, you"]


def test_tsv_quotes_follow_the_lines(tmp_path: Path) -> None:
    written = pd.DataFrame({"path": ["a", "b"], "text": ['say "hi"\tthere', "two\nlines"]})
    written.to_csv(tmp_path / "pandas.tsv", sep="\t", index=False)
    assert texts(tmp_path / "pandas.tsv") == list(written["text"])
    plain = 'path\ttext\na\t"Where is it?\nb\tI do not know."\nc\tplain\n'
    assert texts(write(tmp_path, "plain.tsv", plain)) == [
        '"Where is it?',
        'I do not know."',
        "plain",
    ]
    assert texts(write(tmp_path, "open.tsv", 'path\ttext\na\t"Well," he said.\nb\tx\n')) == [
        '"Well," he said.',
        "x",
    ]


def test_sqlite_tables_are_quoted_and_listed(tmp_path: Path) -> None:
    name = 'my "clips"; DROP TABLE data'
    with sqlite3.connect(tmp_path / "a b#?.db") as database:
        database.execute("CREATE TABLE data (path TEXT, text TEXT)")
        database.execute(f"""CREATE TABLE "{name.replace('"', '""')}" (audio, sentence, speaker)""")
        database.execute(
            f"""INSERT INTO "{name.replace('"', '""')}" VALUES ('a', 'b', 3), ('c', CAST(x'ff' AS TEXT), 3)"""
        )
    database.close()
    path = tmp_path / "a b#?.db"
    rows, (rejection,) = read_metadata(path, sql_table=name)
    assert [(row.text, row.speaker) for row in rows] == [("b", "3")]
    assert "broken UTF-8" in rejection.reason
    assert "has no table 'clips'; it has 'data', " in message(path, sql_table="clips")
    assert "holds no rows" in message(path)


def test_sound_in_parquet_is_written_out_once(tmp_path: Path) -> None:
    wav = b"RIFF" + bytes(40)
    sounds = [{"bytes": wav, "path": "a.wav"}, {"bytes": None, "path": "b.wav"}, None]
    table = pd.DataFrame({"audio": sounds, "text": ["A.", "B.", "C."]})
    table.to_parquet(tmp_path / "t.parquet")
    told: list[str] = []
    for _ in range(2):
        rows, rejections = read_metadata(tmp_path / "t.parquet", tell=told.append)
        assert [row.path.parent.name for row in rows] == ["t.parquet.sounds", tmp_path.name]
        assert rows[0].path.read_bytes() == wav
        assert rows[1].path == tmp_path / "b.wav"
        assert ["path is missing" in one.reason for one in rejections] == [True]
    assert len([*(tmp_path / "t.parquet.sounds").iterdir()]) == 1
    assert any("t.parquet.sounds" in line for line in told)


def test_sound_in_parquet_wins_over_its_name(tmp_path: Path) -> None:
    wav = b"RIFF" + bytes(40)
    table = pd.DataFrame({"path": ["x.mp3"], "audio": [{"bytes": wav}], "sentence": ["A."]})
    table.to_parquet(tmp_path / "t.parquet")
    (row,), rejections = read_metadata(tmp_path / "t.parquet")
    assert (row.path.read_bytes(), rejections) == (wav, [])


def test_parquet_with_other_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"audio": [{"array": [0.5], "rate": 8000}], "text": ["b"]}).to_parquet(path)
    assert "column audio holds records that are no sounds" in message(path)
    pd.DataFrame({"clip": ["a"], "words": ["b"]}).to_parquet(tmp_path / "u.parquet")
    assert "found are 'clip', 'words'" in message(tmp_path / "u.parquet")


def test_json_file_of_lines_is_read(tmp_path: Path) -> None:
    lines = '{"audio_filepath": "a.wav", "text": "A.", "duration": 1}\n' * 2
    assert len(read_metadata(write(tmp_path, "manifest.json", lines))[0]) == 2


def test_long_cells_are_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    (row,), _ = read_metadata(write(tmp_path, "t.tsv", f"path\ttext\na\t{long}"))
    assert row.text == long


def test_excel_separator_line_and_decimal_comma(tmp_path: Path) -> None:
    table = 'sep=;\r\nPath;Text;Start;End\r\na.wav;"A; b";0,5;1,25\r\n'
    (row,), _ = read_metadata(write(tmp_path, "t.csv", table.encode("utf-16")))
    assert (row.text, row.start_sec, row.end_sec) == ("A; b", 0.5, 1.25)


@settings(deadline=None, max_examples=100)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_garbage_raises_only_metadata_error(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), f"t{suffix}", content)
        try:
            rows, rejections = read_metadata(path)
        except MetadataError:
            return
        assert rows or rejections


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            [
                *'[]{}",:|;\t\n\r\\ ',
                '"path"',
                '"text"',
                "path",
                "text",
                "a.wav",
                "1e999",
                "NaN",
                "true",
                "\ufeff",
            ]
        ),
        max_size=40,
    )
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv"])
def test_almost_valid_text_raises_only_metadata_error(suffix: str, pieces: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            Path(folder), f"t{suffix}", "path,text\n" * suffix.endswith("csv") + "".join(pieces)
        )
        try:
            rows, rejections = read_metadata(path)
        except MetadataError:
            return
        assert rows or rejections


def test_packed_lines_are_unpacked(tmp_path: Path) -> None:
    line = json.dumps({"path": "a.wav", "text": "Grüße"}) + "\n"
    packed = gzip.compress(line.encode() * 2)
    path = write(tmp_path, "rows.jsonl.gz", packed)
    assert texts(path) == ["Grüße", "Grüße"]
    rows, _ = read_metadata(tmp_path)  # a folder whose metadata it is
    assert [row.where for row in rows] == [f"{path} row 1", f"{path} row 2"]
    for torn in (packed[:-9], b"no gzip", packed[:12] + b"\xff" * 20):
        assert "cannot be unpacked" in message(write(tmp_path, "torn.jsonl.gz", torn))
    assert "unpack it" in message(write(tmp_path, "rows.tar.gz", packed))
