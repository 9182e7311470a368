"""Progress of long work on the console."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True)
_TOLD_EVERY_SEC = 10.0  # where there is no terminal to draw a bar on


def track(
    items: Iterable[T], what: str, total: float, *, weights: Iterable[float] | None = None
) -> Iterator[T]:
    """Yield `items` and show which share of `total` is done and how long the rest will take.

    `weights`, one per item and adding up to `total`, measure the work in other units.
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
        started = told = time.monotonic()
        done = 0.0
        for item in items:
            yield item
            step = next(steps) if steps is not None else 1
            done += step
            progress.advance(task, step)
            now = time.monotonic()
            if not console.is_terminal and now - told >= _TOLD_EVERY_SEC:
                told = now
                left_sec = (now - started) * max(0.0, total - done) / max(done, 1e-9)
                console.print(f"{what}: {done / total:.0%}, {left_sec:.0f} s left", markup=False)
