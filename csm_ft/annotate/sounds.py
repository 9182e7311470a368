"""The sound files to annotate, and the channels of each that somebody speaks on."""

from collections.abc import Sequence
from pathlib import Path

from csm_ft.data import audio
from csm_ft.datasets.formats import read_table
from csm_ft.datasets.sounds import find_sound, is_sound
from csm_ft.datasets.tables import Columns, Turns
from csm_ft.datasets.tree import Tree
from csm_ft.errors import AudioError, ConfigError
from csm_ft.segment.hear import Recording
from csm_ft.segment.recordings import have_same_sound


def list_sounds(path: Path) -> list[Path]:
    """Return the sound files of a folder, or those that metadata name; ConfigError if none."""
    if not path.exists():
        raise ConfigError(f"{path}: no such folder or file; name a folder of dialogues")
    if path.is_dir():
        found = [one for one in Tree(path.resolve()).files if is_sound(one.name)]
    elif is_sound(path.name):
        found = [path.resolve()]
    else:
        found = _named_in(path)
    if not found:
        raise ConfigError(f"{path}: has no sound file that can be read; name a folder of dialogues")
    return sorted(dict.fromkeys(found))


def _named_in(path: Path) -> list[Path]:
    columns = Columns()
    _, rows = read_table(
        path, sql_table="data", columns=columns, tell=lambda _: None, has_text=False
    )
    found: list[Path] = []
    for number, row in enumerate(rows, start=1):
        values = row.defaults if isinstance(row, Turns) else row
        named = values if isinstance(values, dict) else {}
        value = next((v for name, v in named.items() if columns.field_of(name) == "path"), None)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{path} row {number}: names no sound file; give each row a path")
        found.append(find_sound(path.parent.resolve(), value))
    return found


def sides_of(path: Path) -> Sequence[Recording]:
    """Return the channels of a file; a mono file is the left speaker alone. AudioError."""
    info = audio.probe(path)
    if info.num_channels == 1:
        return [Recording(path, path.stem, info.duration_sec)]
    if info.num_channels != 2:
        raise AudioError(
            f"{path}: has {info.num_channels} channels, not one for each of two speakers; write the"
            " two as a stereo file"
        )
    if have_same_sound(path, info):
        raise AudioError(
            f"{path}: has the same sound on both channels; write one of them as a mono file"
        )
    return [
        Recording(path, f"{path.stem}-left", info.duration_sec, "left"),
        Recording(path, f"{path.stem}-right", info.duration_sec, "right"),
    ]
