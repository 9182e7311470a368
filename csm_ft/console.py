"""Console output: messages, progress with an ETA, and handling of Ctrl-C."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from csm_ft.atomic import disk_errors

T = TypeVar("T")
_PRINT_EVERY_SEC = 10.0  # where there is no terminal to draw a bar on


class _Log(threading.local):
    """Where a thread's output is copied to: of several runs in a process, each has its own."""

    console: Console | None = None
    path = Path()


class LoggedConsole(Console):
    """A console that can copy its output to a file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._log = _Log()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print to the console, and to this thread's log file if there is one."""
        super().print(*objects, **options)
        if self._log.console is not None:
            with disk_errors(self._log.path):
                self._log.console.print(*objects, **options)

    @contextmanager
    def on_stderr(self) -> Iterator[None]:
        """Print to stderr in this block, of programs whose result goes to stdout."""
        before, self.stderr = self.stderr, True
        try:
            yield
        finally:
            self.stderr = before

    @contextmanager
    def copy_to(self, path: Path) -> Iterator[None]:
        """Append all further output of this thread to the text file `path`."""
        log = self._log
        before = log.console, log.path
        with disk_errors(path):
            file = path.open("a", encoding="utf-8")
        log.console = Console(file=file, highlight=False, soft_wrap=True, no_color=True)
        log.path = path
        try:
            yield
        finally:
            log.console, log.path = before
            with disk_errors(path):
                file.close()


console = LoggedConsole(highlight=False, soft_wrap=True)


def shorten(items: Iterable[object], limit: int = 12) -> str:
    """Join items for a message: `a, b and 3 more`."""
    words = [str(item) for item in items]
    rest = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + rest


def clock(seconds: float) -> str:
    """Write a duration as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def track(
    items: Iterable[T], what: str, total: float, *, weights: Iterable[float] | None = None
) -> Iterator[T]:
    """Yield `items`, showing progress towards `total` and the remaining time.

    `weights`, one per item and adding up to `total`, measure the work in other units than items.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    steps = iter(weights) if weights is not None else None
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        began = printed = time.monotonic()
        done = 0.0
        for item in items:
            yield item
            step = next(steps) if steps is not None else 1
            done += step
            progress.advance(task, step)
            now = time.monotonic()
            if not console.is_terminal and now - printed >= _PRINT_EVERY_SEC:
                printed = now
                left_sec = (now - began) * max(0.0, total - done) / max(done, 1e-9)
                console.print(f"{what}: {done / total:.0%}, {left_sec:.0f} s left", markup=False)


@contextmanager
def interruptible(
    message: str, on_press: Callable[[int], None] = lambda _: None
) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C or SIGTERM has been pressed.

    The first press prints `message`; `on_press` is called with the number of each press. The
    handlers that were set before are restored.
    """
    num_presses = 0

    def press(_number: int, _frame: object) -> None:
        nonlocal num_presses
        num_presses += 1
        if num_presses == 1:
            console.print(message)
        on_press(num_presses)

    signals = (signal.SIGINT, signal.SIGTERM)  # SIGTERM: a cluster's job limit
    before = {number: signal.signal(number, press) for number in signals}
    try:
        yield lambda: num_presses > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
