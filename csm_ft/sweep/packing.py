"""How many workers share a GPU: `--trials_per_gpu auto` raises it while throughput grows."""

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from csm_ft.sweep.worker_process import Slot

LEAST_GAIN = 1.05  # one more worker must bring so many times the examples per second
LARGEST_USE = 0.9  # of the memory, as expected with one more worker
WINDOW_SEC = 60.0  # in which a level is measured, after all of its workers have taken a step


class Packing:
    """The number of workers for each GPU: one more at a time, until that gains nothing.

    All GPUs have the same number. Without `is_auto` every slot is used from the start.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        is_auto: bool,
        window_sec: float | None = None,
        memory_use: Callable[[Sequence[str]], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory_use` returns the largest share of memory in use on any of the named GPUs."""
        self._slots, self._clock = slots, clock
        self._window_sec = WINDOW_SEC if window_sec is None else window_sec
        self._memory_use = memory_use or measure_memory_use
        self._most = 1 + max((slot.place for slot in slots), default=0)
        self.is_settled = not is_auto or self._most == 1
        self.level = 1 if is_auto else self._most
        self._rate = 0.0  # examples per second at the level below
        self._begin()

    def admits(self, slot: Slot) -> bool:
        """Tell whether a slot is to be used now."""
        return slot.place < self.level

    def stepped(self, slot: Slot, trial: int, examples: int) -> None:
        """Count the examples of a trial."""
        new = max(0, examples - self._seen.get(trial, examples))
        self._seen[trial] = examples
        if self._began_sec is not None:
            self._examples += new
            return
        self._stepped.add(slot.name)
        if all(one.name in self._stepped for one in self._slots if self.admits(one)):
            self._began_sec = self._clock()

    def update(self) -> str:
        """Go up or down where a level has been measured; return what to tell, or ""."""
        if self.is_settled or self._began_sec is None:
            return ""
        took_sec = self._clock() - self._began_sec
        if took_sec < self._window_sec:
            return ""
        rate, below = self._examples / took_sec, self._rate
        if rate < LEAST_GAIN * below:
            return self._settle(
                self.level - 1,
                f"{self.level} workers train {rate:.1f} examples/s, {below:.1f} with one less",
            )
        if self.level == self._most:
            return self._settle(self.level, "more are not tried")
        gpus = sorted({slot.gpu for slot in self._slots})
        use = self._memory_use(gpus)
        # Each worker is expected to take as much as those that are there.
        if use * (self.level + 1) / self.level > LARGEST_USE:
            return self._settle(self.level, f"they take {use:.0%} of the memory")
        self._rate = rate
        self.level += 1
        self._begin()
        return f"trials per GPU: {self.level} from now on ({rate:.1f} examples/s with one less)"

    def out_of_memory(self) -> str:
        """Go down where workers that were added are in each other's way; "" where none were."""
        if self.is_settled or self.level == 1:
            return ""
        return self._settle(self.level - 1, "with one more, a trial ran out of memory")

    def _begin(self) -> None:
        self._began_sec: float | None = None
        self._examples = 0
        self._seen: dict[int, int] = {}
        self._stepped: set[str] = set()

    def _settle(self, level: int, why: str) -> str:
        self.level, self.is_settled = level, True
        return f"trials per GPU: {level}, as {why}"


def measure_memory_use(gpus: Sequence[str]) -> float:
    """Return the largest share of memory in use on any of these GPUs; of the machine without."""
    if any(gpus) and shutil.which("nvidia-smi"):
        command = [
            *("nvidia-smi", "--query-gpu=memory.used,memory.total"),
            *("--format=csv,noheader,nounits", f"--id={','.join(gpus)}"),
        ]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        pairs = [line.split(",") for line in listed.splitlines() if line.count(",") == 1]
        return max((float(used) / float(total) for used, total in pairs), default=1.0)
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
    return 1 - kilobytes["MemAvailable"] / kilobytes["MemTotal"]
