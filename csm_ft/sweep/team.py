"""The processes that train one trial together: the worker of a slot leads the others.

Each has the environment that torchrun gives its processes, so that train.py runs as under it
(training/parallel.py). The leader is the first rank: it alone talks to the orchestrator, starts the
others, and hands each job on to them. When one of them dies, so does the leader, which is all that
the orchestrator needs to notice.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Callable

from csm_ft.errors import RankLostError
from csm_ft.sweep.link import Link, LinkClosed
from csm_ft.sweep.messages import Done, Failed, FromWorker, Ready, RunTrial
from csm_ft.sweep.worker_process import launch

# For the leader to come out of a run that another rank has failed in; waiting for that rank in a
# collective operation on a GPU, it would not. Then for the others to say why they failed.
GRACE_SEC = 10.0


def environment_of_ranks(size: int) -> dict[str, str]:
    """Return the environment of the first of so many ranks; nothing for one alone."""
    if size == 1:
        return {}
    ranks = {"RANK": "0", "LOCAL_RANK": "0"}
    sizes = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return {**ranks, **sizes, "MASTER_ADDR": "127.0.0.1"}


def is_leader() -> bool:
    """Tell whether this worker process leads others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ["RANK"] == "0"


def is_follower() -> bool:
    """Tell whether this worker process is led by another one."""
    return int(os.environ.get("RANK", "0")) > 0


class Team:
    """The other ranks, as the first one sees them."""

    def __init__(self, trainer: str, tell: Callable[[FromWorker], None]) -> None:
        """Start them, in this process's session; `tell` sends a message to the orchestrator."""
        self._tell, self._changed = tell, threading.Condition()
        self._num_ready, self._ended, self._is_running = 0, list[Done | Failed](), False
        self._followers: list[tuple[subprocess.Popen[bytes], Link[FromWorker]]] = []
        for rank in range(1, int(os.environ["WORLD_SIZE"])):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process, (link,) = launch(place, trainer)
            self._followers.append((process, link))
        for _, link in self._followers:
            threading.Thread(target=self._hear, args=(link,), daemon=True, name="rank").start()

    def wait_until_ready(self) -> None:
        """Return when all have imported the trainer."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_ready == len(self._followers))

    def begin(self, job: RunTrial) -> None:
        """Hand a job on, and let all ranks meet at a new port."""
        os.environ["MASTER_PORT"] = str(port := free_port())
        self._ended, self._is_running = [], True
        for _, link in self._followers:
            link.send(job.model_copy(update={"port": port}))

    def end(self, outcome: Done | Failed) -> Done | Failed:
        """Return how the run ended for all ranks, given how it did for the first.

        Ends this process where a rank is gone that does not say why.
        """
        with self._changed:
            self._is_running = False
            self._changed.notify_all()
            is_all = isinstance(outcome, Done)
            self._changed.wait_for(
                lambda: len(self._ended) == len(self._followers) or self._cause() is not None,
                timeout=None if is_all else GRACE_SEC,
            )
            cause = self._cause()
        if isinstance(outcome, Failed) and outcome.name != RankLostError.__name__:
            cause = outcome  # this one is the cause
        if cause is None and isinstance(outcome, Failed):
            os._exit(1)
        return cause.model_copy(update={"is_leaving": True}) if cause else outcome

    def _cause(self) -> Failed | None:
        """Return the failure of a rank that was not the loss of another one."""
        failed = [one for one in self._ended if isinstance(one, Failed)]
        return next((one for one in failed if one.name != RankLostError.__name__), None)

    def _hear(self, link: Link[FromWorker]) -> None:
        try:
            while True:
                message = link.receive()
                with self._changed:
                    self._num_ready += isinstance(message, Ready)
                    if isinstance(message, Done | Failed):
                        self._ended.append(message)
                    self._changed.notify_all()
                    if self._cause() is not None:
                        self._end_if_stuck()
        except LinkClosed:
            os._exit(1)  # a rank has died: this worker cannot go on, nor its trial in it

    def _end_if_stuck(self) -> None:
        """End this process when its own rank does not come out of the run; holds the condition."""
        if self._changed.wait_for(lambda: not self._is_running, timeout=GRACE_SEC):
            return
        cause = self._cause()
        assert cause is not None, "called when there is one"
        self._tell(cause.model_copy(update={"is_leaving": True}))
        os._exit(1)


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
