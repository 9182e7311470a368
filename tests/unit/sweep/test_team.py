"""The ranks of a trial, as the first one leads them; without processes."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from csm_ft.sweep import team as module
from csm_ft.sweep.link import Link
from csm_ft.sweep.messages import (
    FROM_WORKER,
    TO_WORKER,
    Done,
    Failed,
    Kind,
    Ready,
    RunTrial,
    ToWorker,
)
from csm_ft.sweep.team import Team, environment_of_ranks, is_follower, is_leader

# The end of the process is the end of a thread here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
JOB = RunTrial(trial=3, attempt=1, config={})
DONE = Done(trial=3, attempt=1, status="completed", best=None, metrics={})


def failed(name: str, kind: Kind = "outside") -> Failed:
    return Failed(trial=3, attempt=1, kind=kind, name=name, message="", where="", trace="")


class Leader:
    """A team of two, whose follower is this test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told, self.exits = [], queue.SimpleQueue[int]()
        ours, theirs = Link.open(FROM_WORKER)
        self.follower: Link[ToWorker] = Link(theirs, TO_WORKER)
        monkeypatch.setattr(module, "launch", lambda *_: (None, [ours]))
        monkeypatch.setattr(module, "GRACE_SEC", 0.2)
        monkeypatch.setattr(module.os, "_exit", self._exit)
        for name, value in environment_of_ranks(2).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", "0")
        self.team = Team("train", self.told.append)
        (self.team_thread,) = (t for t in threading.enumerate() if t.name == "rank")

    def _exit(self, code: int) -> None:
        self.exits.put(code)
        raise SystemExit


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    made = Leader(monkeypatch)
    yield made
    made.follower.close()
    made.team_thread.join(timeout=60)  # while the exit is a stand-in
    assert not made.team_thread.is_alive()


def test_all_ranks_run_each_job(leader: Leader) -> None:
    assert is_leader()
    assert not is_follower()
    leader.follower.send(Ready())
    leader.team.wait_until_ready()
    for _ in range(2):
        leader.team.begin(JOB)
        job = leader.follower.receive()
        assert isinstance(job, RunTrial)
        assert str(job.port) == module.os.environ["MASTER_PORT"]
        leader.follower.send(DONE)
        assert leader.team.end(DONE) == DONE


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        ("RankLostError", "OutOfMemoryError", "OutOfMemoryError"),
        ("Diverged", "RankLostError", "Diverged"),
        ("Diverged", "Diverged", "Diverged"),
    ],
)
def test_cause_is_told_and_the_worker_leaves(
    leader: Leader, own: str, others: str, told: str
) -> None:
    leader.team.begin(JOB)
    leader.follower.send(failed(others))
    outcome: Any = leader.team.end(failed(own))
    assert (outcome.name, outcome.is_leaving) == (told, True)
    assert not leader.told


def test_rank_that_says_nothing_ends_the_worker(leader: Leader) -> None:
    leader.team.begin(JOB)
    leader.follower.send(failed("RankLostError"))
    with pytest.raises(SystemExit):
        leader.team.end(failed("RankLostError"))


def test_death_of_a_rank_ends_the_worker(leader: Leader) -> None:
    leader.follower.close()
    assert leader.exits.get(timeout=60) == 1


def test_failure_is_told_while_the_first_rank_hangs(leader: Leader) -> None:
    leader.team.begin(JOB)
    leader.follower.send(failed("ConfigError", "infeasible"))
    assert leader.exits.get(timeout=60) == 1
    (told,) = leader.told
    assert (told.name, told.kind, told.is_leaving) == ("ConfigError", "infeasible", True)


def test_one_rank_alone_has_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert environment_of_ranks(1) == {}
    assert not is_leader()
    assert not is_follower()
