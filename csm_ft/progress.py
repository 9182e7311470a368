"""Progress of long work on the console."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True)
_TOLD_EVERY = 0.1  # of the work, where there is no terminal to draw a bar on


def track(items: Iterable[T], what: str, total: int, *, weights: Iterable[float] | None = None) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done and how long the rest will take.

    `weights`, one per item and adding up to `total`, measure the work in other units.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    steps = iter(weights) if weights is not None else None
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        told = 0.0
        for item in items:
            yield item
            progress.advance(task, next(steps) if steps is not None else 1)
            share = progress.tasks[0].completed / max(1, total)
            if not console.is_terminal and share >= told + _TOLD_EVERY:
                told = share
                left = progress.tasks[0].time_remaining
                console.print(f"{what}: {share:.0%}" + (f", {left:.0f} s left" if left else ""), markup=False)
