"""The samples of a run as tables, made anew from its folder: what a resumed run cut off is gone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.runs.folder import RunFolder
from csm_ft.runs.wandb_mirror import Cell, Table

RECORDING = "recording"
# Facts of a sample that are shown first, and their headings: of sounds, and of texts.
_SOUND = {
    "step": "step",
    "text": "sentence",
    RECORDING: RECORDING,
    "seconds": "duration_sec",
    "stopped_by_eos": "stopped_by_eos",
    "silence_share": "silence_share",
}
_TEXT = {
    "step": "step",
    "text": "reference",
    "answer": "hypothesis",
    RECORDING: RECORDING,
    "is_complete": "is_complete",
}
# Facts that tell a listener nothing beside those.
_HIDDEN = {
    "kind",
    "prompt",
    "examples",
    "is_complete",
    "clip_id",
    "turns_left_out",
    "sec_per_char",
    "peak",
}


def samples_table(folder: RunFolder) -> Table:
    """Return the samples of all steps, the latest first; beside a text what was transcribed.

    Facts that are not known here, such as scores, become further columns.
    """
    rows = [
        {
            **row,
            RECORDING: _recording(folder.sample_stem(row["prompt"], row["step"]))
            or _recording(folder.references / row["prompt"]),
        }
        for row in folder.rows("sample")
    ]
    return _table(sorted(rows, key=lambda row: -row["step"]))


def references_table(folder: RunFolder) -> Table:
    """Return the real clips through the codec: the upper bound for the quality of any sample."""
    paths = sorted(folder.references.glob("*.json"))
    rows = [{**json.loads(p.read_bytes()), RECORDING: _recording(p.with_suffix(""))} for p in paths]
    return _table(rows)


def _recording(stem: Path) -> Path | None:
    wav = stem.with_name(f"{stem.name}.wav")
    return wav if wav.is_file() else None


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    known = _SOUND if any("seconds" in row for row in rows) else _TEXT
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys(name for name, value in row.items() if _is_shown(value))
    names = [name for name in known if name in found]
    names += [name for name in found if name not in known and name not in _HIDDEN]
    cells: list[list[Cell]] = [[row.get(name) for name in names] for row in rows]
    return Table([known.get(name, name) for name in names], cells)


def _is_shown(value: Any) -> bool:
    return isinstance(value, Path | str | int | float) and value != ""
