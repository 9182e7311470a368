"""`--max_hours` and `--gpu_hours`: what a study may take, over all calls of its command."""

import json
import time
from pathlib import Path

from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.study import SweepStudy

BEGAN = "began"  # the event at the beginning of each call
_HOUR_SEC = 3600


class Limits:
    """Tells when a study has taken what it may."""

    def __init__(self, study: SweepStudy, sweep: SweepConfig) -> None:
        """Count what earlier calls took, and begin to count this one."""
        self._study, self._sweep = study, sweep
        self._before_sec = seconds_of_calls(study.folder.events)
        self._began_sec = time.monotonic()
        study.event(BEGAN)

    def reached(self, running_sec: float) -> str:
        """Return in words which limit is reached, "" = none.

        `running_sec` is the time of running attempts, which the study does not have yet.
        """
        hours = (self._before_sec + time.monotonic() - self._began_sec) / _HOUR_SEC
        if 0 < self._sweep.max_hours <= hours:
            return _words("max_hours", self._sweep.max_hours)
        if self._sweep.gpu_hours:
            hours_of_trials = (self._study.seconds + running_sec) / _HOUR_SEC
            sharing = self._sweep.workers_per_gpu * self._sweep.packed_lora
            gpus = self._sweep.gpus_per_trial / sharing
            gpu_hours = gpus * hours_of_trials
            if gpu_hours >= self._sweep.gpu_hours:
                return _words("gpu_hours", self._sweep.gpu_hours)
        return ""


def seconds_of_calls(events: Path) -> float:
    """Return how long calls have run: each from its first event to its last."""
    total = first = last = 0.0
    for line in events.read_text(encoding="utf-8").splitlines() if events.is_file() else ():
        event = json.loads(line)
        if event["event"] == BEGAN:
            total, first = total + last - first, event["time"]
        last = event["time"]
        first = first or last  # of a study that is older than this event
    return total + last - first


def _words(option: str, limit: float) -> str:
    return (
        f"--{option} {limit:g} is reached: running trials are saved, and a larger --{option}"
        " continues"
    )
