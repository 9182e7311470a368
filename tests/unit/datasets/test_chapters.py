"""Files that follow each other in a recording, as turns of conversations."""

from pathlib import Path

import pytest

from csm_ft.datasets.__main__ import main
from tests.helpers.metadata import make, read

CHAPTER = "LibriSpeech/train-clean-100/19/198"


def turns(path: Path) -> dict[str, tuple[str, int]]:
    return {row.path.stem: (row.conversation, row.turn) for row in read(path)[0]}


def test_successive_numbers_are_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that is missing or whose row has no text ends a conversation."""
    numbers = [0, 1, 2, 4, 5, 6, 7]
    lines = [f"19-198-{n:04} {'' if n == 6 else f'TEXT {n}'}\n" for n in reversed(numbers)]
    sounds = [f"{CHAPTER}/19-198-{n:04}.flac" for n in numbers]
    make(tmp_path, *sounds, **{f"{CHAPTER}/19-198.trans.txt": "".join(lines)})
    output = tmp_path / "rows.jsonl"
    argv = ["librispeech", str(tmp_path / "LibriSpeech"), "--output", str(output)]
    assert main(argv) == 0
    assert {talk for talk, _ in turns(output).values()} == {""}
    assert main([*argv, "--conversations"]) == 0
    first, second, third = ("19-198-0000", "19-198-0004", "19-198-0007")
    assert turns(output) == {
        **{f"19-198-{n:04}": (first, n) for n in (0, 1, 2)},
        **{"19-198-0004": (second, 0), "19-198-0005": (second, 1), "19-198-0007": (third, 0)},
    }
    assert "6 rows are turns of 3 conversations" in capsys.readouterr().out


def test_times_of_mls_say_what_follows(tmp_path: Path) -> None:
    """In the order of time, up to 2 s apart; another recording begins another conversation."""
    times = {0: ("x", 10.0, 20.0), 1: ("x", 40.5, 50.0), 2: ("x", 22.0, 40.0), 3: ("x", 52.1, 60.0)}
    times[4] = ("y", 60.5, 70.0)
    ids = [f"10_200_{n:06}" for n in times]
    segments = "".join(
        f"{id_}\thttp://{url}\t{start}\t{end}\n"
        for id_, (url, start, end) in zip(ids, times.values(), strict=True)
    )
    make(
        tmp_path / "mls_dutch",
        *(f"train/audio/10/200/{id_}.flac" for id_ in ids),
        **{
            "train/transcripts.txt": "".join(f"{id_}\ttekst\n" for id_ in ids),
            "train/segments.txt": f"{segments}torn\n",
        },
    )
    output = tmp_path / "rows.jsonl"
    argv = ["mls", str(tmp_path / "mls_dutch"), "--conversations", "--output", str(output)]
    assert main(argv) == 0
    talk = ids[0]
    assert turns(output) == {
        **{ids[0]: (talk, 0), ids[2]: (talk, 1), ids[1]: (talk, 2)},
        **{ids[3]: (ids[3], 0), ids[4]: (ids[4], 0)},
    }
