"""Names of speakers and conversations in several sets."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data.rows import Row
from csm_ft.datasets.sets import read_sets
from csm_ft.datasets.write import write_metadata
from csm_ft.errors import ConfigError

NAMES = st.text("ab1 é中", min_size=1, max_size=4).map(str.strip).filter(bool)


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.jsonl"
    path.write_text(
        "".join(json.dumps({"path": "a.wav", "text": "A."} | row) + "\n" for row in rows)
    )
    return path


def names(rows: list[Row]) -> list[tuple[str, str | None, str]]:
    return [(row.tags["source"], row.speaker, row.conversation) for row in rows]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6),
    st.lists(NAMES, min_size=1, max_size=4),
)
def test_names_stay_apart_and_are_given_once(
    named: list[tuple[str, str]], others: list[str]
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        one = write(
            folder, "x", [{"source": "x", "speaker": s, "conversation": c} for s, c in named]
        )
        two = write(folder, "y", [{"speaker": s, "conversation": s} for s in others])
        rows, _ = read_sets([one, two], folder / "out/all.jsonl", lambda _: None)
        assert len({row.speaker for row in rows}) == len({s for s, _ in named}) + len(set(others))
        write_metadata(folder / "out/all.jsonl", rows, [])
        again, _ = read_sets([folder / "out/all.jsonl"], folder / "out/b.jsonl", lambda _: None)
        assert sorted(names(again)) == sorted(names(rows))
        assert {row.path for row in again} == {row.path for row in rows}


@pytest.mark.parametrize(
    ("source", "speaker", "wanted"),
    [("a b", "1", "a_b-1"), ("[x]", "1", "_x_-1"), ("esd", "", "esd"), ("esd", "esd-1", "esd-1")],
)
def test_name_of_a_speaker(tmp_path: Path, source: str, speaker: str, wanted: str) -> None:
    path = write(tmp_path, "t", [{"source": source, "speaker": speaker}])
    (row,), _ = read_sets([path], tmp_path / "o/a.jsonl", lambda _: None)
    assert row.speaker == wanted
    assert row.tags["source"] == source


def test_names_that_meet_are_refused(tmp_path: Path) -> None:
    rows = [{"source": "esd", "speaker": "en-1"}, {"source": "esd-en", "speaker": "1"}]
    with pytest.raises(ConfigError, match="speaker esd-en-1 would be one of esd and one of esd-en"):
        read_sets([write(tmp_path, "t", rows)], tmp_path / "o/a.jsonl", lambda _: None)
