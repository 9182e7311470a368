"""CPU-seconds of things measured side by side, in turns: A B, B A, A B, ...

CPU-seconds of one thread, and ratios within a round, are what other work on the machine disturbs
least.
"""

import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from csm_ft.console import console

Times = Mapping[str, list[float]]  # name of a variant -> CPU-seconds of each round
ROOT = Path(__file__).resolve().parent.parent


def interleave(
    variants: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Run all variants in every round, and once before unmeasured; return their times.

    A variant is called with the number of the round, from 0. What the comparison takes by the clock
    is printed.
    """
    began_sec = time.monotonic()
    for run in variants.values() if warm_up else ():
        run(0)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        order = list(variants)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            began = clock()
            variants[name](number)
            times[name].append(clock() - began)
    wall_sec = time.monotonic() - began_sec
    console.print(f"  {', '.join(variants)}: {wall_sec:.0f} s", markup=False)
    return times


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch up for all that is compared; csm-ft's own steps are deterministic as ever."""
    import torch

    from csm_ft.device import reproducible

    with reproducible("cpu", threads=1, seed=0):
        torch.use_deterministic_algorithms(False)
        yield


def run_child(command: Sequence[str]) -> None:
    """Run a program of the repository to its end; CalledProcessError if it fails."""
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def children_clock() -> float:
    """Return the CPU-seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
