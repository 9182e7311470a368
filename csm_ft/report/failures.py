"""Trials that failed: the reason, and the end of the log."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.sweep.records import Summary, TrialRecord

MOST_FAILURES = 20
_NUM_LINES, _NUM_BYTES = 15, 8192
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\n\t\x20-\x7e\xa0-\U0010ffff]")


@dataclass(frozen=True)
class Failure:
    """A failed trial."""

    trial: TrialRecord
    log: str  # path, relative to the page; "" = there is none
    end: str  # last lines of the log


def find_failures(summary: Summary, folder: SweepFolder) -> Iterator[Failure]:
    """Yield the failed trials, the last ones first, as these are the news."""
    failed = [trial for trial in summary.trials if trial.has_failed]
    for trial in failed[::-1][:MOST_FAILURES]:
        path = RunFolder(folder.path / trial.dir).log
        end = _read_end(path)
        yield Failure(trial, path.relative_to(folder.path).as_posix() if end else "", end)


def _read_end(path: Path) -> str:
    """Return the last lines of a log as plain text; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _NUM_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(_UNPRINTABLE.sub("", text.replace("\r", "\n")).splitlines()[-_NUM_LINES:])
