"""Steps that are programs: each runs again only where its command or its inputs have changed."""

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.console import console

STATE = "steps.json"


@dataclass(frozen=True)
class Step:
    """A program with what it reads and what it leaves."""

    name: str  # a verb, for people
    argv: Sequence[str]  # behind `python`
    inputs: Sequence[Path]  # files and folders
    output: Path

    def fingerprint(self) -> str:
        """Return a hash of the command and of its inputs: contents of files, listings of folders.

        In a listing stand the names, sizes and times of all files.
        """
        digest = hashlib.blake2b(json.dumps(list(self.argv)).encode(), digest_size=16)
        for path in self.inputs:
            for line in _facts(path):
                digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class Steps:
    """The steps of a folder, and which of them are done; the state survives a kill."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE
        self._done: dict[str, str] = {}
        if self._path.is_file():
            self._done = json.loads(self._path.read_text())

    def run(self, step: Step, number: int, total: int) -> int:
        """Run a step if it is not done already; return its exit code."""
        title, fingerprint = f"step {number} of {total}: {step.name}", step.fingerprint()
        if self._done.get(step.name) == fingerprint and step.output.exists():
            console.print(f"{title}: done already, {step.output}", markup=False)
            return 0
        console.print(f"{title}: python {shlex.join(step.argv)}", markup=False, style="bold")
        code = _call([sys.executable, *step.argv])
        if code == 0:
            self._done[step.name] = fingerprint
            write_whole(self._path, json.dumps(self._done, indent=2))
        return code


def _call(argv: Sequence[str]) -> int:
    """Run a program; Ctrl-C is its own business, which ends it in an orderly way."""
    process = subprocess.Popen(argv)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _facts(path: Path) -> Iterator[str]:
    """Yield what a file or folder is known by."""
    if path.is_file():
        with path.open("rb") as file:
            yield f"{path} {hashlib.file_digest(file, 'blake2b').hexdigest()}\n"
        return
    for file in sorted(path.rglob("*")):
        facts = file.lstat()
        yield f"{file} {facts.st_size} {facts.st_mtime_ns}\n"
