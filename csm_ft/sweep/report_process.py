"""report.html, made by a process of its own, so that workers never wait for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

from csm_ft.console import console

_ROOT = Path(__file__).resolve().parents[2]
_LARGEST_SHARE = 0.2  # of the time that a page may be in the making, while trials run
_ERROR_CHARACTERS = 500  # of the end of what a failed process printed


class ReportProcess:
    """Makes the page of one sweep folder."""

    def __init__(self, out: Path) -> None:
        self._command = [sys.executable, "-m", "csm_ft.report", str(out.resolve())]
        self._process: subprocess.Popen[bytes] | None = None
        self._began_sec = self._due_sec = 0.0

    def refresh(self) -> None:
        """Begin to make the page again, unless it is being made, or was a moment ago."""
        now_sec = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._process.communicate()
            self._process = None
            self._due_sec = self._began_sec + (now_sec - self._began_sec) / _LARGEST_SHARE
        if self._process is None and now_sec >= self._due_sec:
            self._began_sec = now_sec
            self._process = self._start(niceness=19)  # trials come first

    def finish(self) -> None:
        """Make the page from the final files and wait for it.

        A failure is printed; it never fails the sweep.
        """
        if self._process is not None:
            self._process.communicate()
        self._process = self._start(niceness=0)
        _, error = self._process.communicate()
        if self._process.returncode:
            text = error.decode(errors="replace").strip()[-_ERROR_CHARACTERS:]
            console.print("[yellow]report.html could not be made[/]:", end=" ")
            console.print(text, markup=False)

    def _start(self, niceness: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.nice(niceness),
        )
