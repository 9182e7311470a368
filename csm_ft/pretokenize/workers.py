"""Calls made by processes beside each other, their results in order: torch's DataLoader.

It reads ahead, passes on what a call raises, notices a process that was killed, and ends its
processes with this one. Those that are forked share what is in memory, such as an encoder.
"""

import ctypes
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from csm_ft.device import keep_freed_memory
from csm_ft.errors import MachineError, first_line

I = TypeVar("I")  # noqa: E741 - an item
T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
_KILLED = re.compile(r"DataLoader worker \(pid")


def num_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def call_in_processes(
    function: Callable[[I], T], items: Sequence[I], num_processes: int, *, ahead: int = 2
) -> Iterator[T]:
    """Yield `function(item)` for each item, in order; with one process, this one makes the calls.

    Each process uses one thread, and so does this one, so that their number changes no bit of a
    result. `ahead` calls of each process are made before their results are asked for. Raises what
    a call raises, and MachineError when a process is killed.
    """
    is_alone = num_processes < 2
    loader = DataLoader(
        _Calls(function, items),
        batch_size=None,
        collate_fn=_same,  # the default makes tensors of arrays
        num_workers=0 if is_alone else num_processes,
        prefetch_factor=None if is_alone else ahead,
        worker_init_fn=_Begin(os.getpid()),
    )
    try:
        with one_thread():
            yield from loader
    except RuntimeError as error:
        if not _KILLED.match(str(error)):
            raise
        raise MachineError(
            f"a process that reads and encodes sound was killed ({first_line(error)}), most often"
            " for want of memory. What is encoded is kept: the same command continues; lower"
            " --num_workers or --batch_sec"
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread in torch and numpy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


class _Calls(Dataset[Any]):
    """The results of a function, by the place of its argument."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._function(self._items[index])


def _same(result: T) -> T:
    return result


class _Begin:
    """What a process does first; it ends when the process `parent` does, however that ends."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, _number: int) -> None:
        keep_freed_memory()
        threadpool_limits(limits=1, user_api="blas")
        try:
            prctl = ctypes.CDLL(None).prctl
        except (AttributeError, OSError, TypeError):
            return  # elsewhere the loader looks for its parent every few seconds
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:
            os._exit(1)
