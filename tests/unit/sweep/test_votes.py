"""votes.json: what is refused, what merges, and what the scores say."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from csm_ft.atomic import exclusive
from csm_ft.errors import ConfigError, VotesError
from csm_ft.report.data import read_summary
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.preference import measure_preference, with_preference, write_preference
from csm_ft.sweep.records import Contender, Summary
from csm_ft.sweep.status import describe_sweep
from csm_ft.sweep.votes import Vote, add_votes, parse_votes, read_votes
from tests.helpers.sweep_folder import make_sweep
from tests.helpers.voting import ballot, make_vote


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    make_sweep(tmp_path, num_trials=4, samples=False)
    return read_summary(SweepFolder(tmp_path))


def vote(number: int, left: Contender, right: Contender, choice: str = "left") -> Vote:
    return Vote.model_validate(make_vote(number, left, right, choice))


def test_votes_of_several_people_merge_without_doubles(tmp_path: Path, summary: Summary) -> None:
    folder = SweepFolder(tmp_path)
    ours, theirs = [vote(1, 0, 1), vote(2, "base", 3)], [vote(2, "base", 3), vote(3, 1, 3, "tie")]
    assert add_votes(folder, summary, ours) == 2
    assert add_votes(folder, summary, theirs) == 1
    assert add_votes(folder, summary, theirs) == 0
    assert read_votes(folder.votes, summary) == [*ours, theirs[1]]


def test_a_file_read_twice_stays_the_same(tmp_path: Path, summary: Summary) -> None:
    folder = SweepFolder(tmp_path)
    add_votes(folder, summary, [vote(1, 0, 1)])
    before = folder.votes.read_bytes()
    add_votes(folder, summary, read_votes(folder.votes, summary))
    assert folder.votes.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"study": "other"}, "votes of the study 'other'"),
        ({"created": None}, "begun None"),
        ({"votes": [make_vote(1, 0, 99)]}, "vote 1: trial 99 is not in the study, which has 4"),
        ({"votes": [make_vote(1, 0, 0)]}, "vote 1: Value error, left and right are both 0"),
        ({"votes": [make_vote(1, 0, 1), make_vote(2, 0, 1, "both")]}, "vote 2: choice 'both'"),
        ({"votes": [make_vote(1, True, 1)]}, "vote 1: left True"),
        ({"votes": [{**make_vote(1, 0, 1), "id": "../../x"}]}, "vote 1: id '../../x'"),
        ({"votes": [{**make_vote(1, 0, 1), "time": "today"}]}, "vote 1: time 'today'"),
        ({"votes": [{**make_vote(1, 0, 1), "voter": "a" * 201}]}, "vote 1: voter"),
        ({"votes": [{**make_vote(1, 0, 1), "more": 1}]}, "vote 1: more 1: Extra inputs"),
        ({"votes": [make_vote(1, 0, 1), make_vote(1, 1, 0)]}, "two different votes have the id"),
        ({"votes": {}}, "votes"),
    ],
)
def test_mistakes_name_file_vote_and_rule(
    summary: Summary, change: dict[str, Any], message: str
) -> None:
    text = json.dumps({**ballot(summary, []), **change}).encode()
    with pytest.raises(VotesError) as caught:
        parse_votes(text, "their.json", summary)
    assert str(caught.value).startswith("their.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe\x00"])
def test_torn_files_are_refused(summary: Summary, text: bytes) -> None:
    with pytest.raises(VotesError, match=r"their\.json"):
        parse_votes(text, "their.json", summary)


def test_missing_file_is_named(tmp_path: Path, summary: Summary) -> None:
    with pytest.raises(VotesError, match="No such file"):
        read_votes(tmp_path / "nothing.json", summary)


def test_a_damaged_file_is_never_overwritten(tmp_path: Path, summary: Summary) -> None:
    folder = SweepFolder(tmp_path)
    folder.votes.write_text("{torn")
    with pytest.raises(VotesError):
        add_votes(folder, summary, [vote(1, 0, 1)])
    assert folder.votes.read_text() == "{torn"
    noted = with_preference(summary, folder)
    assert noted.preference is None
    assert str(folder.votes) in noted.notes[-1]


def test_two_writers_wait_for_one_another(tmp_path: Path, summary: Summary) -> None:
    folder = SweepFolder(tmp_path)
    with (
        exclusive(folder.votes_lock, "held"),
        pytest.raises(ConfigError, match="another process is adding votes"),
    ):
        add_votes(folder, summary, [vote(1, 0, 1)])
    assert not folder.votes.exists()


def test_scores_stand_in_summary_and_status(tmp_path: Path, summary: Summary) -> None:
    folder = SweepFolder(tmp_path)
    clear = [vote(i, 3, 0) for i in range(12)]
    close = [vote(20 + i, 3, 1, ("left", "right", "tie")[i % 3]) for i in range(6)]
    add_votes(folder, summary, [*clear, *close, vote(40, "base", 0, "right")])
    write_preference(folder)
    stored = json.loads(folder.summary.read_text())["preference"]
    assert [score["contender"] for score in stored["scores"]] == [3, 1, 0, "base"]
    assert stored["num_votes"] == 19
    found = read_summary(folder).preference
    assert found is not None
    best, second, third, _ = found.scores
    assert best.num_votes == 18
    assert best.low < best.score < best.high
    assert second.ties_with_best
    assert not third.ties_with_best
    assert "19 blind votes by 2 listeners prefer trial 3" in found.text
    assert "within the interval it ties with trial 1" in found.text
    assert found.text in describe_sweep(tmp_path)
    rows = list(csv.DictReader(folder.table.read_text().splitlines()))
    for row in rows:
        score = found.of(int(row["number"]))
        wanted = ("", "", "")
        if score is not None:
            wanted = (str(score.score), str(score.low), str(score.high))
        assert (row["preference"], row["preference_low"], row["preference_high"]) == wanted
    assert [row["preference"] != "" for row in rows] == [True, True, False, True]


def test_summary_of_a_running_sweep_is_left_to_it(tmp_path: Path, summary: Summary) -> None:
    folder = SweepFolder(tmp_path)
    before = folder.summary.read_bytes()
    add_votes(folder, summary, [vote(1, 0, 1)])
    with exclusive(folder.lock, "held"):
        write_preference(folder)
    assert folder.summary.read_bytes() == before


def test_groups_that_never_met_are_said(summary: Summary) -> None:
    found = measure_preference([vote(1, 0, 1), vote(2, 2, 3)])
    assert found is not None
    assert "2 groups were never compared with one another" in found.text
    assert measure_preference([]) is None
