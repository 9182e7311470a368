"""Conversations.

Rows and lists of turns become places in a conversation, and what is rejected leaves a hole.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.metadata import read_metadata

Columns = dict[str, Any]


def read(folder: Path, rows: list[Any]) -> tuple[list[Row], list[Rejection]]:
    (folder / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    return read_metadata(folder / "train.json")


def clip(name: str, conversation: Any = None, turn: Any = None, **more: Any) -> Columns:
    return {"path": f"{name}.wav", "text": name, "conversation": conversation, "turn": turn, **more}


def places(rows: list[Row]) -> dict[str, tuple[str, int]]:
    return {row.text: (row.conversation, row.turn) for row in rows}


def test_turns_follow_rows_or_numbers(tmp_path: Path) -> None:
    rows, rejections = read(
        tmp_path,
        [
            clip("a", 3),
            clip("b", "x", 10),
            clip("c", 3.0),
            clip("d"),
            clip("e", "x", "-2.5"),
            clip("f", "3"),
        ],
    )
    assert rejections == []
    assert places(rows) == {
        "a": ("3", 0),
        "b": ("x", 1),
        "c": ("3", 1),
        "d": ("", 0),
        "e": ("x", 0),
        "f": ("3", 2),
    }


def test_turns_may_be_numbered_by_time_stamps(tmp_path: Path) -> None:
    stamps = [1_699_999_999_999_999_999, 1_699_999_999_999_999_998, 10**30, 0.1, "0.2"]
    rows, rejections = read(tmp_path, [clip(str(i), "x", stamp) for i, stamp in enumerate(stamps)])
    assert rejections == []
    assert [row.turn for row in rows] == [3, 2, 4, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message", "left"),
    [
        ([clip("a", "x"), clip("b", None, 2), clip("c", "x")], "turn 2 is of no conversation; name it", {"a": 0, "c": 1}),
        ([clip("a", "x", 1), clip("b", "x", 1.0), clip("c", "x", 2)], "row 1 is turn 1.0 of conversation 'x', too", {"a": 0, "c": 2}),
        ([clip("a", "x", 1), clip("b", "x", "two"), clip("c", "x", 3)], "turn 'two' is not a number; number the turns", {"a": 0, "c": 2}),
        ([clip("a", "x", 1), clip("b", "x", "1e" + "9" * 30), clip("c", "x", 3)], "is not a number", {"a": 0, "c": 2}),
        ([clip("a", "x", 1), clip("b", "x", True), clip("c", "x", 3)], "turn True is not a number", {"a": 0, "c": 2}),
        ([clip("a", "x", 1), clip("b", "x"), clip("c", "x", 3)], "other turns of its conversation have one", {"a": 0, "c": 2}),
        ([clip("a", "x", 9), clip("b", "x"), clip("c", "x", 3)], "number all turns of conversation 'x', or none", {"c": 0, "a": 1}),
        ([clip("a", "x"), clip("b", ["x"]), clip("c", "x")], "conversation ['x'] is neither a word nor a number", {"a": 0, "c": 2}),
        ([clip("a", "x"), clip("b", "x\ny"), clip("c", "x")], "has control characters; rename it", {"a": 0, "c": 2}),
        ([clip("a", "x"), clip("b", "x", text=""), clip("c", "x")], "text is missing", {"a": 0, "c": 2}),
        ([clip("a", "x"), clip("b", text=""), clip("c", "x")], "text is missing", {"a": 0, "c": 1}),
        ([clip("a", "x", 5), clip("b", "x", 6, start=-1), clip("c", "x", 7)], "is below 0", {"a": 0, "c": 2}),
        ([clip("a", "x"), clip("b", "y", conversation_id="x"), clip("c", "x")], "differ; keep one", {"a": 0, "c": 2}),
    ],
)  # fmt: skip
def test_rejected_turn_leaves_hole(
    tmp_path: Path, rows: list[Columns], message: str, left: dict[str, int]
) -> None:
    good, (rejection,) = read(tmp_path, rows)
    assert message in rejection.reason
    assert ";" in rejection.reason, "a reason names the way out"
    assert rejection.where.endswith("row 2")
    assert rejection.path == "b.wav", "as the file spells it"
    assert {row.text: row.turn for row in good} == left


def test_repeated_turn_names_earlier_row(tmp_path: Path) -> None:
    _, rejections = read(
        tmp_path, [clip("a", "x", 1), clip("b", "y", 1), clip("c", "x", "1"), clip("d", "x", 1)]
    )
    first = f"{tmp_path / 'train.json'} row 1"
    assert [r.reason for r in rejections] == [
        f"the place of an earlier turn; {first} is turn 1 of conversation 'x', too: number them"
        " apart"
    ] * 2


def test_torn_line_within_conversation_is_turn(tmp_path: Path) -> None:
    lines = [
        "path,text,conversation",
        "a.wav,a,x",
        "b.wav,Well, you know,x",
        "c.wav,c,x",
        "d.wav,Well, no,x",
        "e.wav,e,y",
        "f.wav,f,x",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    rows, rejections = read_metadata(tmp_path / "t.csv")
    assert len(rejections) == 2
    assert places(rows) == {"a": ("x", 0), "c": ("x", 2), "e": ("y", 0), "f": ("x", 3)}, (
        "between x and y it is of either or none"
    )


def test_row_may_be_list_of_turns(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    rows, rejections = read(
        tmp_path,
        [
            {"path": "one.wav", "text": "alone"},
            {
                "path": "call.wav",
                "speaker": 1,
                "turns": [
                    {"text": "a", "end": 2, "speaker": None},
                    {"text": "", "start": 2, "end": 3},
                    {"text": "b", "start": 3, "speaker": "Ann", "audio": "other.wav"},
                ],
            },
            [
                {"path": "c.wav", "text": "c", "turn": 2},
                "x",
                {"path": "d.wav", "text": "d", "turn": 1},
            ],
            {"conversation": 7.0, "turns": [{"path": "e.wav", "text": "e"}]},
            {
                "conversation": "7",
                "turns": [
                    {"path": "f.wav", "text": "f"},
                    {"path": "g.wav", "text": "g", "conversation": 8},
                ],
            },
            {"path": "h.wav", "text": "h", "turns": None},
            {"turns": []},
            {"path": "i.wav", "turns": [{"text": "i", "turns": [{"text": "j"}]}]},
        ],
    )
    assert places(rows) == {
        "alone": ("", 0),
        "a": ("row 2", 0),
        "b": ("row 2", 2),
        "c": ("row 3", 1),
        "d": ("row 3", 0),
        "e": ("7", 0),
        "f": ("7", 1),
        "g": ("8", 0),
        "h": ("", 0),
    }
    a, b = rows[1:3]
    assert (a.where, a.path, a.speaker, a.start_sec, a.end_sec) == (
        f"{path} row 2 turn 1",
        tmp_path / "call.wav",
        "1",
        None,
        2.0,
    )
    assert (b.where, b.path, b.speaker) == (f"{path} row 2 turn 3", tmp_path / "other.wav", "Ann")
    assert [
        (r.where.removeprefix(f"{path} "), r.path, r.reason.split(";")[0]) for r in rejections
    ] == [
        ("row 2 turn 2", "call.wav", "text is missing or empty"),
        ("row 3 turn 2", "", "the turn is 'x', not an object"),
        ("row 7", "", "turns is an empty list"),
        ("row 8 turn 1", "", "the turn has turns of its own"),
    ]


def test_jsonl_and_parquet_hold_turns(tmp_path: Path) -> None:
    turns = [{"path": f"{i}.wav", "text": str(i)} for i in range(3)]
    (tmp_path / "t.jsonl").write_text(
        "\n".join(map(json.dumps, [turns, {"turns": turns}, turns[0]]))
    )
    rows, rejections = read_metadata(tmp_path / "t.jsonl")
    assert rejections == []
    assert [(row.conversation, row.turn) for row in rows] == [
        *(("row 1", i) for i in range(3)),
        *(("row 2", i) for i in range(3)),
        ("", 0),
    ]
    pd.DataFrame(
        {"turns": [turns, turns[:2]], "speaker": [1, 2], "path": ["x.wav", None]}
    ).to_parquet(tmp_path / "t.parquet")
    rows, rejections = read_metadata(tmp_path / "t.parquet")
    assert rejections == []
    assert [(row.conversation, row.turn, row.speaker, row.path.name) for row in rows] == [
        *(("row 1", i, "1", f"{i}.wav") for i in range(3)),
        *(("row 2", i, "2", f"{i}.wav") for i in range(2)),
    ]
    pd.DataFrame({"turns": [2], "path": ["x.wav"], "text": ["x"]}).to_parquet(
        tmp_path / "u.parquet"
    )
    assert len(read_metadata(tmp_path / "u.parquet")[0]) == 1, (
        "a column of that name that holds no turns is one of the others"
    )


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from(
        ["", " ", "nan", "x", "3", "3.0", "1e400", "[x]", "a\nb", "\ud800", "-0", "５"]
    ),
    st.lists(st.integers(), max_size=2),
)
TURN = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["a.wav", 3, ""]),
        "text": ODD,
        "conversation": ODD,
        "turn": ODD,
    },
)
NESTED = st.one_of(
    TURN,
    st.lists(st.one_of(TURN, ODD), max_size=3),
    st.builds(lambda row, turns: {**row, "turns": turns}, TURN, st.lists(TURN | ODD)),
)


def count(value: Any) -> int:
    """Return of how many rows and turns a value of the file will speak."""
    if isinstance(value, dict):
        return len(value["turns"]) or 1 if isinstance(value.get("turns"), list) else 1
    return (
        len(value)
        if isinstance(value, list) and any(isinstance(turn, dict) for turn in value)
        else 1
    )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(NESTED, ODD), min_size=1, max_size=8))
def test_odd_conversations_never_share_a_place(
    values: list[Any],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        good = [{"path": "z.wav", "text": "z", "conversation": "x"} for _ in range(2)]
        rows, rejections = read(Path(folder), [good[0], *values, good[1]])
        num_turns = 2 + sum(map(count, values))
        assert len(rows) + len(rejections) == num_turns, "no row is lost"
        wheres = [item.where for item in (*rows, *rejections)]
        assert len(set(wheres)) == len(wheres)
        turns = [(row.conversation, row.turn) for row in rows if row.conversation]
        assert len(set(turns)) == len(turns)
        assert all(row.turn == 0 for row in rows if not row.conversation)
        assert all(0 <= row.turn < num_turns for row in rows)
        for rejection in rejections:
            assert ";" in rejection.reason
            rejection.to_json().encode()
        of_x = [row for row in rows if row.conversation == "x"]
        if of_x and len(of_x) < max(row.turn for row in of_x) + 1:
            assert rejections, "a hole comes from a rejected row"


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(-3, 3), st.booleans()), max_size=12))
def test_places_match_sorting_and_counting(turns: list[tuple[str, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given_rows = [
            clip(str(i), name, turn, **({} if fine else {"start": -1}))
            for i, (name, turn, fine) in enumerate(turns)
        ]
        rows, _ = read(Path(folder), [*given_rows, {"path": "z.wav", "text": "z"}])
    expected = {"z": ("", 0)}
    for i, (name, turn, fine) in enumerate(turns):
        if fine and (name, turn) not in [earlier[:2] for earlier in turns[:i]]:
            before = [
                j for j, other in enumerate(turns) if other[0] == name and (other[1], j) < (turn, i)
            ]
            expected[str(i)] = (name, len(before))
    assert places(rows) == expected
