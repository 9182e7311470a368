"""Offline runs of W&B read back, as `wandb sync` would upload them."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK_BYTES = 32768  # LevelDB's log format, after a header of seven bytes
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """What one offline-run-* folder holds."""

    folder: Path
    has_ended: bool = False
    id: str = ""
    name: str = ""
    project: str = ""
    entity: str = ""
    group: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # versions, by key

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Rows of the last version of a table; each recording is the path of its file."""
        table = self.tables[key][-1]
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def offline_runs(folder: Path, *, num_killed: int = 0) -> list[OfflineRun]:
    """Read the offline runs of a run or sweep folder, oldest first.

    W&B's service writes the end of a run a moment after the run has finished, or was killed.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = [_read(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
        if sum(not run.has_ended for run in runs) == num_killed:
            return runs
        time.sleep(0.05)
    raise AssertionError(f"{folder}: some of its W&B runs have not ended")


def _read(folder: Path) -> OfflineRun:
    found = OfflineRun(folder)
    for content in _records(b"".join(path.read_bytes() for path in folder.glob("*.wandb"))):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            run = record.run
            found.id, found.name, found.project = run.run_id, run.display_name, run.project
            found.entity, found.group, found.job_type = run.entity, run.run_group, run.job_type
            found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif record.HasField("config"):
            items = record.config.update
            found.config |= {item.key: json.loads(item.value_json) for item in items}
        elif record.HasField("summary"):
            items = record.summary.update
            found.summary |= {_key(item): json.loads(item.value_json) for item in items}
        elif record.HasField("history"):
            items = record.history.item
            found.history.append({_key(item): json.loads(item.value_json) for item in items})
        elif record.HasField("exit"):
            found.has_ended = True
        elif record.HasField("artifact"):
            _add_table(found, record.artifact)
        elif record.HasField("request") and record.request.HasField("log_artifact"):
            _add_table(found, record.request.log_artifact.artifact)
    return found


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _add_table(found: OfflineRun, artifact: Any) -> None:
    """Keep the table of an artifact, with the files that wait for their upload."""
    contents = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    if artifact.manifest.manifest_file_path:
        raise AssertionError("a manifest in a file of its own is not read here")
    (name,) = [name for name in contents if name.endswith(".table.json")]
    table = json.loads(contents[name].read_text())
    for row in table["data"]:
        row[:] = [contents[c["path"]] if isinstance(c, dict) else c for c in row]
    found.tables.setdefault(name.removesuffix(".table.json"), []).append(table)


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = _BLOCK_BYTES - place % _BLOCK_BYTES
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        if place + 7 + size > len(content):
            return  # still being written
        part = content[place + 7 : place + 7 + size]
        place += 7 + size
        record = part if kind in (_FULL, _FIRST) else record + part
        if kind in (_FULL, _LAST):
            yield record
