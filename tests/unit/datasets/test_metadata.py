import csv
import json
import math
import sqlite3
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets import tables
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.values import read_values

Columns = dict[str, Any]


def read(
    folder: Path, rows: list[Columns], name: str = "train.json"
) -> tuple[list[Row], list[Rejection]]:
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return read_metadata(folder / name)


def one(folder: Path, **columns: Any) -> Row:
    rows, rejections = read(folder, [{"path": "a.wav", "text": "Hello.", **columns}])
    assert rejections == [], str(rejections[0])
    return rows[0]


def reason(folder: Path, **columns: Any) -> str:
    rows, rejections = read(
        folder, [{"path": "a.wav", "text": "Hello.", **columns}, {"path": "b.wav", "text": "Good."}]
    )
    assert [row.path.name for row in rows] == ["b.wav"], "one bad row costs no other"
    assert rejections[0].where == f"{folder / 'train.json'} row 1"
    assert ";" in rejections[0].reason, "a reason names the way out"
    return rejections[0].reason


# The same rows in every format


def write(path: Path, rows: list[Columns]) -> None:
    names = list({name: None for row in rows for name in row})
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text(
                "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
            )
        case ".csv" | ".tsv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(
                    file, names, delimiter="," if path.suffix == ".csv" else "\t"
                )
                writer.writeheader()
                writer.writerows(rows)
        case ".sqlite":
            with sqlite3.connect(path) as database:
                database.execute(f"CREATE TABLE data ({', '.join(names)})")
                database.executemany(
                    f"INSERT INTO data VALUES ({', '.join('?' * len(names))})",
                    [[row.get(name) for name in names] for row in rows],
                )
            database.close()
        case ".parquet":
            columns_of_one_type(rows, names).to_parquet(path)
        case ".h5":
            with h5py.File(path, "w") as file:
                for name, column in columns_of_one_type(rows, names).items():
                    numeric = column.dtype.kind == "f"
                    file.create_dataset(
                        str(name),
                        data=column.to_numpy() if numeric else list(column),
                        dtype=None if numeric else h5py.string_dtype(),
                    )


def columns_of_one_type(rows: list[Columns], names: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in names}, dtype=object)
    for name in names:
        if name in ("start", "end"):
            frame[name] = frame[name].astype(float)
        else:
            frame[name] = (
                frame[name].map(lambda value: "" if value is None else str(value)).astype(object)
            )
    return frame


TALK = st.one_of(
    st.none(),
    st.integers(0, 3),
    st.integers(0, 3).map(float),
    st.sampled_from(["0", "a b", "call [2]"]),
)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
SPAN = st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)).map(
    lambda span: (span[0] / 1000, (span[0] + span[1]) / 1000)
)
SPEAKER = st.one_of(
    st.none(),
    st.integers(0, 999),
    st.integers(0, 99).map(float),
    st.sampled_from(["alice", "Zoë 2", "007", "３"]),
)


@st.composite
def clips(draw: st.DrawFn) -> tuple[Columns, Columns]:
    """Return columns and what they mean."""
    core = f"w{draw(WORDS).replace('.wav', '')}z"
    speaker, (start, end) = draw(SPEAKER), draw(SPAN)
    start, end = (start if draw(st.booleans()) else None), (end if draw(st.booleans()) else None)
    name = f"{draw(st.integers(0, 99))} é.wav"
    columns = {
        "path": name,
        "text": f"{draw(st.sampled_from(['', ' ', chr(10)]))}{core} ",
        "start": start,
        "end": end,
        "speaker": speaker,
    }
    columns["conversation"] = talk = draw(TALK)
    meaning = {
        "path": name,
        "text": unicodedata.normalize("NFC", core),
        "start_sec": start,
        "end_sec": end,
        "speaker": word(speaker),
        "conversation": word(talk) or "",
    }
    return columns, meaning


def word(value: float | str | None) -> str | None:
    return None if value is None else str(int(value)) if isinstance(value, float) else str(value)


@settings(deadline=None, max_examples=40)
@given(st.lists(clips(), min_size=1, max_size=8))
@pytest.mark.parametrize(
    "suffix", [".json", ".jsonl", ".csv", ".tsv", ".sqlite", ".parquet", ".h5"]
)
def test_every_format_gives_same_rows(suffix: str, pairs: list[tuple[Columns, Columns]]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        path = folder / f"clips{suffix}"
        write(path, [columns for columns, _ in pairs])
        rows, rejections = read_metadata(path)
        assert rejections == []
        names = [meaning["conversation"] for _, meaning in pairs]
        assert rows == [
            Row(
                where=f"{path} row {number}",
                **{**meaning, "path": folder / meaning["path"]},
                turn=(
                    names[: number - 1].count(meaning["conversation"])
                    if meaning["conversation"]
                    else 0
                ),
            )
            for number, (_, meaning) in enumerate(pairs, start=1)
        ]


# What values mean


@pytest.mark.parametrize(
    ("written", "means"),
    [(3, "3"), (3.0, "3"), ("3", "3"), ("3.0", "3"), (" 3 ", "3"), (-0.0, "0"), ("alice", "alice"), ("007", "007"), ("v1.0", "v1.0")],
)  # fmt: skip
def test_speaker_is_read_as_word(tmp_path: Path, written: Any, means: str) -> None:
    assert one(tmp_path, speaker=written).speaker == means


@pytest.mark.parametrize("nothing", [None, math.nan, "", "  ", "nan", "None", "null"])
def test_absent_values_are_none(tmp_path: Path, nothing: Any) -> None:
    row = one(tmp_path, speaker=nothing, start=nothing, end=nothing, duration=nothing)
    assert (row.speaker, row.start_sec, row.end_sec) == (None, None, None)


def test_public_trainer_example_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("""[
      {"text": "Hello, [world],}", "path": "a.wav",},
      {"text": "Bonjour", "path": "b.wav", "start": 0.0, "end": 30.0, "speaker": 0,},
    ]""")
    rows, rejections = read_metadata(tmp_path / "train.json")
    assert rejections == []
    assert [(row.text, row.start_sec, row.end_sec, row.speaker) for row in rows] == [
        ("Hello, [world],}", None, None, None),
        ("Bonjour", 0.0, 30.0, "0"),
    ]


def test_empty_csv_cells_are_absent(tmp_path: Path) -> None:
    pd.DataFrame(
        {"path": ["a.wav", "b.wav"], "text": ["x", "y"], "speaker": [3, None], "end": [None, 2]}
    ).to_csv(tmp_path / "t.csv")
    rows, rejections = read_metadata(tmp_path / "t.csv")
    assert rejections == []
    assert [(row.speaker, row.end_sec) for row in rows] == [("3", None), (None, 2.0)]


def test_column_names_are_matched_loosely(tmp_path: Path) -> None:
    row = {
        " Audio": "a.wav",
        "Sentence ": "Hi",
        "SPEAKER_ID": 1,
        "start": "1.1",
        "duration": 2.2,
        "emotion": {"joy": 1},
        "offset": "x",
    }
    (found,), rejections = read(tmp_path, [row])
    assert rejections == []
    assert found == Row(f"{tmp_path / 'train.json'} row 1", tmp_path / "a.wav", "Hi", "1", 1.1, 3.3)


def test_column_and_alias_must_agree(tmp_path: Path) -> None:
    assert (
        one(
            tmp_path, audio=" a.wav", speaker=3, speaker_id="3.0", start=1, end=3.3, duration=2.3
        ).end_sec
        == 3.3
    )
    assert "audio 'b.wav' and path 'a.wav' differ" in reason(tmp_path, audio="b.wav")
    assert "end_sec 3.0 is not start_sec 1.0 + duration_sec 2.5" in reason(
        tmp_path, start=1, end=3, duration=2.5
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"end": 3.2, "start": 3.2},
            'end_sec 3.2 is not after start_sec 3.2 (clip "a.wav"); drop the row or fix the span',
        ),
        ({"end": 0}, "end_sec 0.0 is not after start_sec 0.0"),
        ({"start": -0.5}, "start_sec -0.5 is below 0"),
        ({"duration": 0, "start": 1}, "duration_sec 0.0 is not above 0"),
        ({"start": True}, "start True is not a number of seconds"),
        ({"start": "1,5,0"}, "start '1,5,0' is not a number of seconds; write it like 12.5"),
        ({"end": "00:01:30"}, "end '00:01:30' is not a number"),
        ({"end": "1_000"}, "end '1_000' is not a number"),
        ({"end": "infinity"}, "end 'infinity' is not a number"),
        ({"end": math.inf}, "end inf is not finite"),
        ({"end": 10**400}, "is not finite"),
        ({"end": [1]}, "end [1] is not a number"),
        ({"text": None}, "text is missing or empty"),
        ({"text": math.nan}, "text is missing or empty"),
        ({"text": " \n"}, "text is missing or empty"),
        ({"text": "NaN"}, "text 'NaN' is an empty cell"),
        ({"text": "\u200b"}, "has no visible character"),
        ({"text": 42}, "text 42 is not a string; put it in quotes"),
        ({"text": "a\0b"}, "has characters that are no text"),
        ({"text": "a\ud800"}, "has characters that are no text"),
        ({"path": 7}, "path 7 is not a string"),
        ({"path": 7, "start": 2, "end": 1}, "path 7 is not a string"),
        ({"path": ["a.wav"]}, "is not a string"),
        ({"path": "https://x.org/a.wav"}, "is an address"),
        ({"path": "a\0.wav"}, "has characters that are no text"),
        ({"speaker": True}, "speaker True is neither a word nor a number"),
        ({"speaker": ["a"]}, "neither a word nor a number"),
        ({"speaker": math.inf}, "is not finite"),
        ({"speaker": "a]b"}, "has brackets"),
        ({"speaker": "a\nb"}, "control characters"),
    ],
)
def test_bad_row_is_rejected_with_reason(tmp_path: Path, columns: Columns, message: str) -> None:
    assert message.replace('"', "'") in reason(tmp_path, **columns)


@given(text=st.text())
def test_texts_are_read_as_letter_by_letter(text: str) -> None:
    """Compared with a look at every letter of a text."""
    letters = text.strip()
    is_text = not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in letters)
    is_visible = any(letter.isprintable() and not letter.isspace() for letter in letters)
    values, reasons = read_values({"text": text}, tables.Columns())
    if letters and letters not in ("nan", "NaN"):
        assert ("text" in values) == (is_text and is_visible)
        assert ("no text" in reasons.get("text", "")) == (not is_text)
        assert ("no visible" in reasons.get("text", "")) == (is_text and not is_visible)


def test_huge_number_is_a_speaker(tmp_path: Path) -> None:
    assert one(tmp_path, speaker=10**400).speaker == str(10**400)


def test_rejection_survives_json(tmp_path: Path) -> None:
    _, (rejection, _) = read(
        tmp_path, [{"path": "ü.wav", "text": "naïve \ud800"}, {"path": 3, "text": ["x"]}]
    )
    line = rejection.to_json()
    assert "\n" not in line
    line.encode("utf-8")
    assert json.loads(line)["path"] == "ü.wav"
    assert json.loads(line)["reason"] == rejection.reason
    assert str(rejection) == f"{rejection.where}: {rejection.reason}"


def test_rows_and_rejections_keep_numbers(tmp_path: Path) -> None:
    rows, rejections = read(
        tmp_path, [{"path": f"{i}.wav", "text": "" if i % 3 == 0 else f"t{i}"} for i in range(10)]
    )
    numbers = {int(item.where.rsplit(" ", 1)[1]) for item in (*rows, *rejections)}
    assert numbers == set(range(1, 11))
    assert [item.where.rsplit(" ", 1)[1] for item in rejections] == ["1", "4", "7", "10"]


def test_numpy_values_and_bytes_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        kind = np.dtype([("path", "S8"), ("text", "S8"), ("speaker", "i4"), ("end", "f4")])
        file["clips"] = np.array(
            [(b"a.wav", "é".encode(), 3, 1.5), (b"b.wav", b"", 4, np.nan)], dtype=kind
        )
    (row,), (rejection,) = read_metadata(tmp_path / "t.h5")
    assert (row.path, row.text, row.speaker, row.end_sec) == (tmp_path / "a.wav", "é", "3", 1.5)
    assert rejection.reason.startswith("text is missing")


# Paths


def test_paths_are_relative_to_metadata_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "wavs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "wavs")
    rows = [
        {"path": p, "text": "x"}
        for p in (
            "../wavs/a.wav",
            f"{tmp_path}/wavs/a.wav",
            "../link/a.wav",
            "./../meta/.././wavs//a.wav",
        )
    ]
    write(tmp_path / "meta" / "train.json", rows)
    monkeypatch.chdir(tmp_path)
    found, _ = read_metadata(Path("meta/train.json"))
    assert {row.path for row in found} == {tmp_path / "wavs" / "a.wav"}, (
        "four spellings of one source"
    )
    assert found[0].where == "meta/train.json row 1", "the name as the user gave it"


def test_linked_metadata_file_counts_where_seen(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    write(tmp_path / "store" / "x.json", [{"path": "a.wav", "text": "x"}])
    (tmp_path / "train.json").symlink_to(tmp_path / "store" / "x.json")
    (row,), _ = read_metadata(tmp_path / "train.json")
    assert row.path == tmp_path / "a.wav"


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert one(tmp_path, path="~/a.wav").path == tmp_path / "home" / "a.wav"


def test_unclosed_quote_across_rows_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        'path,text\na.wav,"Where is it?\nb.wav,I do not know."\nc.wav,"two\nlines"\n'
    )
    (row,), (rejection,) = read_metadata(tmp_path / "t.csv")
    assert row.text == "two\nlines"
    assert "a quote mark is not closed" in rejection.reason
    assert rejection.path == "a.wav"
