"""What runs on a node of the cluster: it starts a worker there and passes its messages on.

Sent to the node by value, so at the top of this file there is only Python's own library: the
program itself is found, or unpacked, by `prepare`. Ray is not imported.
"""

import hashlib
import io
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEASE_SEC = 20.0  # without a question from the orchestrator, after which the worker is killed
LONGEST_WAIT_SEC = 0.5  # of one question
CODE = ("csm_ft", "train.py")  # by its hash, programs are the same


@dataclass(frozen=True)
class Need:
    """What a node must have before a worker starts there."""

    root: str  # of the program
    code_hash: str
    working_folder: str  # that paths are relative to
    mark: tuple[str, str]  # a file of the sweep's folder and its content
    files: Mapping[str, str]  # SHA-256 of the files that runs read
    is_copying: bool  # the sweep's folder is not shared


@dataclass(frozen=True)
class Heard:
    """What a worker has sent since the last question."""

    frames: Sequence[bytes]
    log: bytes
    is_stopped: bool
    exit_code: int | None  # None while it runs


class Node:
    """One worker on this node; all methods are called by the orchestrator."""

    def __init__(self, need: Need, slot: str) -> None:
        self._need, self._slot = need, slot
        self._work = Path(tempfile.gettempdir()) / f"csm-ft-{os.getuid()}"
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._asked_sec = time.monotonic()
        self._worker: Any = None
        self._log_bytes = 0
        self._root: Path | None = None
        self.runs = ""  # where runs are kept that are copied

    def prepare(self) -> str:
        """Check the node; return why it cannot be used, "" if it can, "code" if that is missing."""
        need = self._need
        if not _is_private(self._work):
            return f"{self._work} belongs to somebody else; set TMPDIR where ray was started"
        name, content = Path(need.mark[0]), need.mark[1]
        if need.is_copying:
            self.runs = str(self._work / "runs" / f"{content}-{self._slot}")
            Path(self.runs).mkdir(parents=True, exist_ok=True)
        elif not name.is_file() or name.read_text(encoding="utf-8") != content:
            return (
                f"the folder of the sweep, {name.parent}, is not shared with it: put it on a folder"
                " that all nodes see, or use --cluster_copy"
            )
        for path, digest in need.files.items():
            found = self.path_of(path)
            if not found.is_file():
                return f"missing {path}" if need.is_copying else f"there is no {path}"
            if hash_of_file(found) != digest:
                return (
                    f"{path} has other content there than where the sweep was started; trials on"
                    " other data cannot be compared. Copy it there again"
                )
        roots = (Path(need.root), self._work / "code" / need.code_hash)
        self._root = next((root for root in roots if hash_of_code(root) == need.code_hash), None)
        return "" if self._root else "code"

    def put_code(self, packed: bytes) -> None:
        """Unpack the program."""
        target = self._work / "code" / self._need.code_hash
        draft = target.with_name(f".{target.name}.{self._slot}")
        shutil.rmtree(draft, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)

    def put_piece(self, path: str, offset: int, piece: bytes, *, is_last: bool) -> None:
        """Write a piece of a file that runs read."""
        target = self._input(path)
        draft = target.with_name(f".{target.name}.{self._slot}")
        draft.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("ab" if offset else "wb") as file:
            file.write(piece)
        if is_last:
            draft.replace(target)

    def path_of(self, path: str) -> Path:
        """Return where a file that runs read is here."""
        own = Path(self._need.working_folder) / path
        is_copied = self._need.is_copying and not own.is_file()
        return self._input(path) if is_copied else own

    def _input(self, path: str) -> Path:
        return self._work / "inputs" / self._need.files[path] / Path(path).name

    def start(self, environment: Mapping[str, str], trainer: str) -> None:
        """Start the worker, in a thread that lives as long: the worker ends with it."""
        started = threading.Event()
        threading.Thread(
            target=self._keep, args=(dict(environment), trainer, started), daemon=True
        ).start()
        threading.Thread(target=self._watch_lease, daemon=True).start()
        started.wait()

    def _keep(self, environment: dict[str, str], trainer: str, started: threading.Event) -> None:
        sys.path.insert(0, str(self._root))
        from csm_ft.sweep.link import LinkClosed
        from csm_ft.sweep.worker_process import Slot, WorkerProcess

        self.log = self._work / "logs" / f"{self._need.mark[1]}-{self._slot}.log"
        self._log_bytes = self.log.stat().st_size if self.log.is_file() else 0
        folder = Path(self._need.working_folder)
        if folder.is_dir():
            os.chdir(folder)
        self._worker = WorkerProcess(Slot(self._slot, environment), trainer, self.log)
        started.set()
        try:
            while True:
                message = self._worker.link.receive()
                self._frames.put(message.model_dump_json().encode())
        except LinkClosed:
            self._worker.process.wait()
        except Exception as error:  # not a message
            self._worker.signal(9)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"\n{error}\n")
        self._frames.put(None)

    def _watch_lease(self) -> None:
        """Kill the worker when nobody asks any more: another node may have its trial by then."""
        while time.monotonic() - self._asked_sec < LEASE_SEC:
            time.sleep(1)
        self._worker.signal(9)

    def hear(self) -> Heard:
        """Wait a moment for messages and return them."""
        self._asked_sec = time.monotonic()
        frames, code = list[bytes](), None
        try:
            frame = self._frames.get(timeout=LONGEST_WAIT_SEC)
            while frame is not None:
                frames.append(frame)
                frame = self._frames.get_nowait()
            code = self._worker.process.wait()
        except queue.Empty:
            pass
        with self.log.open("rb") as file:
            file.seek(self._log_bytes)
            log = file.read()
        self._log_bytes += len(log)
        self._asked_sec = time.monotonic()
        return Heard(frames, log, self._worker.is_stopped(), code)

    def tell(self, frame: bytes) -> None:
        """Pass a message on to the worker."""
        from csm_ft.sweep.messages import TO_WORKER, RunTrial

        message = TO_WORKER.validate_json(frame)
        if isinstance(message, RunTrial) and self._need.is_copying:
            config = dict(message.config)
            config["output_dir"] = str(Path(self.runs) / Path(config["output_dir"]).name)
            for name, value in config.items():
                if isinstance(value, str) and value in self._need.files:
                    config[name] = str(self.path_of(value))
            message = message.model_copy(update={"config": config})
        self._worker.send(message)

    def signal(self, number: int) -> None:
        """Send a signal to the worker."""
        self._worker.signal(number)

    def kill(self) -> int:
        """End the worker and return its exit code."""
        code = self._worker.kill() if self._worker else 0
        if self.runs:
            shutil.rmtree(self.runs, ignore_errors=True)
        return code

    # Folders of runs that are copied: see copying.py

    def files(self, folder: str) -> dict[str, tuple[int, int]]:
        """Return size and time of each file of a run."""
        return self._tree(folder).files()

    def read(self, folder: str, name: str, offset: int) -> bytes:
        """Return a piece of a file of a run."""
        return self._tree(folder).read(name, offset)

    def write(self, folder: str, name: str, offset: int, piece: bytes, time_ns: int) -> None:
        """Write a piece of a file of a run, aside."""
        self._tree(folder).write(name, offset, piece, time_ns)

    def commit(self, folder: str, names: Sequence[str]) -> None:
        """Put what was written into its place."""
        self._tree(folder).commit(names)

    def _tree(self, folder: str) -> Any:
        from csm_ft.sweep.copying import Tree

        return Tree(Path(self.runs) / folder)


def _is_private(folder: Path) -> bool:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.stat().st_uid == os.getuid() and not folder.is_symlink()


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of_code(root: Path) -> str:
    """Return the SHA-256 of the program's Python files; "" where it is not there."""
    if not all((root / name).exists() for name in CODE):
        return ""
    digest = hashlib.sha256()
    for path in sorted(p for name in CODE for p in ((root / name), *(root / name).rglob("*.py"))):
        if path.is_file():
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def pack_code(root: Path, names: Sequence[str]) -> bytes:
    """Return files and folders of the program as a zip file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in (p for name in names for p in ((root / name), *(root / name).rglob("*"))):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(root))
    return packed.getvalue()
