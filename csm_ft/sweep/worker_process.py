"""A worker as the orchestrator sees it: its slot, its link and its job, and a process of it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from csm_ft.atomic import disk_errors
from csm_ft.sweep.link import Link, LinkClosed
from csm_ft.sweep.messages import (
    BASELINE,
    FROM_WORKER,
    Answer,
    FromWorker,
    Pause,
    RunTrial,
)

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_LEAVE_SEC = 1.0  # for an idle worker to leave by itself
_LOG_LINES = 20  # of the log's end, for messages


@dataclass(frozen=True)
class Slot:
    """One place for one worker."""

    name: str  # gpu0, gpu0.1 (the second on the GPU), gpu0+1 (both for one trial), cpu0
    environment: Mapping[str, str]  # set before anything is imported
    gpu: str = ""  # or several, as CUDA_VISIBLE_DEVICES names them
    place: int = 0  # among the workers that share the GPU, or the CPU
    node: str = ""  # of the cluster
    lane_of: str = ""  # the worker process that it shares with other slots

    @property
    def process(self) -> str:
        """Name of the worker process, which a slot has to itself unless it is a lane."""
        return self.lane_of or self.name


class Job(NamedTuple):
    """What a worker is doing; trial BASELINE is the untrained model."""

    trial: int
    attempt: int


class Worker(ABC):
    """One worker in its slot, wherever it runs."""

    link: Link[FromWorker]  # its end tells that the worker is dead
    problem = ""  # why nothing can run where it is, for the user
    is_lost = False  # with its machine, which says nothing about its trial
    is_spent = False  # no more jobs: something may be left behind in its process

    def __init__(self, slot: Slot, log: Path) -> None:
        self.slot, self.log = slot, log
        self.is_ready = False
        self.has_stepped = False  # in its job
        self.hangs = False  # and is killed for it
        self.is_dead = False  # its link has ended
        self.has_company = False  # other trials ran in its process during its job
        self.job: Job | None = None
        self._began_sec = 0.0

    @abstractmethod
    def signal(self, number: int) -> None:
        """Send a signal to the process, and SIGCONT and SIGKILL to all that it started."""

    @abstractmethod
    def kill(self) -> int:
        """End the process and all it started; return its exit code, negative for a signal."""

    @abstractmethod
    def is_stopped(self) -> bool:
        """Tell whether the process is stopped, as by SIGSTOP; False where that cannot be seen."""

    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """Return what tells the process apart, for the list of events."""

    @property
    def trial(self) -> int | None:
        """Number of the trial that it runs; None when idle or measuring the untrained model."""
        return self.job.trial if self.job and self.job.trial != BASELINE else None

    def describe(self) -> str:
        """Return what it does and where, for messages."""
        if self.job is None:
            return f"the worker on {self.slot.name}"
        trial = "the untrained model" if self.trial is None else f"trial {self.trial}"
        return f"{trial} on {self.slot.name}"

    def start(self, job: Job, config: dict[str, object]) -> None:
        """Give it something to do."""
        self.job, self.has_stepped, self._began_sec = job, False, time.monotonic()
        self.send(RunTrial(trial=job.trial, attempt=job.attempt, config=config))

    def seconds(self) -> float:
        """Return the time since its job began."""
        return time.monotonic() - self._began_sec

    def send(self, message: RunTrial | Answer | Pause) -> None:
        """Send a message; a dead worker is noticed by the end of its link, not here."""
        with contextlib.suppress(LinkClosed):
            self.link.send(message)

    def log_end(self) -> str:
        """Return the last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])


class WorkerProcess(Worker):
    """A worker process on this machine; started by the constructor."""

    def __init__(self, slot: Slot, trainer: str, log: Path) -> None:
        super().__init__(slot, log)
        with open_log(log) as output:
            # In a session of its own, Ctrl-C reaches the orchestrator only.
            self.process, (self.link,) = launch(
                slot.environment, trainer, output=output, own_session=True
            )

    def signal(self, number: int) -> None:
        """Send a signal to the process, and SIGCONT and SIGKILL to all that it started."""
        send_signal(self.process, number)

    def identity(self) -> Mapping[str, object]:
        """Return the number of the process."""
        return {"pid": self.process.pid}

    def is_stopped(self) -> bool:
        """Tell whether the process is stopped, as by SIGSTOP; False where that cannot be seen."""
        return is_stopped(self.process)

    def kill(self) -> int:
        """End the process and all it started; return its exit code, negative for a signal."""
        self.link.close()  # an idle worker leaves by itself, quietly
        return end_process(self.process, is_idle=self.job is None)


def open_log(log: Path) -> IO[bytes]:
    """Open a log of workers, to be written on; MachineError for a full disk."""
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")


def send_signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to a process, and SIGCONT and SIGKILL to all of its session."""
    with contextlib.suppress(ProcessLookupError):
        if number in (signal.SIGCONT, signal.SIGKILL):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def is_stopped(process: "subprocess.Popen[bytes]") -> bool:
    """Tell whether a process is stopped, as by SIGSTOP; False where that cannot be seen."""
    try:
        facts = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[0] == "T"  # the name before it may have spaces


def end_process(process: "subprocess.Popen[bytes]", *, is_idle: bool) -> int:
    """End a process, whose links are closed, and its session; return its exit code.

    An idle one has a moment to leave by itself.
    """
    if is_idle:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_LEAVE_SEC)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def launch(
    environment: Mapping[str, str],
    trainer: str,
    *,
    num_links: int = 1,
    output: IO[bytes] | None = None,
    own_session: bool = False,
) -> tuple["subprocess.Popen[bytes]", Sequence[Link[FromWorker]]]:
    """Start a worker process, which dies with this one; return it and this end of its links.

    It has a lane for each link. Without `output` it prints where this process does.
    """
    pairs = [Link[FromWorker].open(FROM_WORKER) for _ in range(num_links)]
    descriptors = [theirs.fileno() for _, theirs in pairs]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    arguments = ["--trainer", trainer, "--links", *map(str, descriptors)]
    with contextlib.ExitStack() as passed_on:
        for _, theirs in pairs:
            passed_on.enter_context(theirs)
        process = subprocess.Popen(
            [sys.executable, "-m", "csm_ft.sweep.worker", *arguments],
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            pass_fds=descriptors,
            start_new_session=own_session,
            preexec_fn=_die_with_parent(),
        )
    return process, [ours for ours, _ in pairs]


def _die_with_parent() -> Callable[[], None] | None:
    """Return what asks Linux, in the new process, for SIGKILL when the orchestrator dies.

    Before anything else runs there, so that it dies even if it is stopped while it starts.
    Elsewhere the end of the link does it.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()  # here: a new process should load nothing

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def describe_exit(code: int) -> str:
    """Return how a process ended, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
