"""A folder as metadata: the one table in it, or its sound files with a text file beside each.

And LJSpeech's list without a header. As in formats.py, what the values mean is decided in
metadata.py.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from csm_ft.console import shorten
from csm_ft.data.token_file import is_token_file
from csm_ft.datasets.tables import (
    SUFFIXES,
    Table,
    TableRow,
    Unreadable,
    field_of,
    reading,
)
from csm_ft.datasets.wav_lists import NORMALISED, wav_list_columns
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_READ = ".wav .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .caf .w64 .rf64 .voc .sph"
_NOT_READ = ".m4a .aac .wma .amr"  # not by libsndfile: they are rejected with that reason
SOUND_SUFFIXES = (*_READ.split(), *_NOT_READ.split())
TEXT_SUFFIXES = (".txt", ".lab", ".normalized.txt")  # the first that is there counts
_OWN_LISTS = (".rejected.jsonl", ".report.json")  # what pretokenize.py writes beside its output


def find_metadata(path: Path) -> Path:
    """Return the metadata file in a folder, or `path` itself: a folder without one, or a file.

    MetadataError for more than one.
    """
    with reading(path):
        if not path.is_dir():
            return path
        found = sorted(file.name for file in path.iterdir() if _is_metadata(file))
    if len(found) > 1:
        raise MetadataError(
            f"{path}: is a folder with {len(found)} metadata files, {shorten(found)}; name the one"
            f" to read, as {path / found[0]}"
        )
    return path / found[0] if found else path


def read_folder(folder: Path) -> list[tuple[str, dict[str, Any] | Unreadable]]:
    """Return a row for every sound file, at any depth, sorted by path.

    Each is the file's name, and its path and text, or why there is no text. Hidden files and
    folders are left out. MetadataError when there is no sound file at all.
    """
    with reading(folder):
        sounds = sorted(_walk(folder))
    if not sounds:
        raise MetadataError(
            f"{folder}: is a folder with neither a metadata file ({SUFFIXES}) nor sound files"
            f" ({' '.join(SOUND_SUFFIXES[:6])} ...) in it; put sound files there, and what is said"
            " in a.wav into a.txt beside it"
        )
    return [(str(sound), _row(folder, sound, transcript)) for sound, transcript in sounds]


def is_wav_list(path: Path) -> bool:
    """Tell whether a file is a list without a header beside a folder wavs/, as that of LJSpeech."""
    with reading(path):
        has_sound = (path.parent / "wavs").is_dir()
        if path.suffix.lower() != ".csv" or not has_sound or not path.is_file():
            return False
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            fields = file.readline().split("|")
    is_header = "path" in {field_of(name.strip('" \r\n')) for name in fields}
    return len(fields) in (2, 3) and not is_header


def read_wav_list(path: Path) -> Table:
    """Read such a list; quotes are part of the texts.

    Its columns are id|text, id|text|normalised, id|text|speaker or id|speaker|text: what they hold
    decides. The sound of an id is wavs/<id>.wav, or another sound file of that name. MetadataError
    asks when what the columns hold leaves it open.
    """
    with reading(path):
        lines = [line for line in read_text(path, MetadataError).split("\n") if line.strip()]
        sounds = {
            file.stem: file.name
            for file in sorted((path.parent / "wavs").iterdir(), key=_rank, reverse=True)
            if _is_sound(file.name)
        }
    rows = [[field.strip() for field in line.split("|")] for line in lines]
    columns = wav_list_columns(path, [row for row in rows if len(row) == 3])
    return columns, [_wav_list_row(row, columns, sounds) for row in rows]


def _wav_list_row(row: list[str], columns: Sequence[str], sounds: dict[str, str]) -> TableRow:
    name, *texts = row
    if len(texts) not in (1, 2):
        return Unreadable(
            f"has {len(row)} fields between bars; write id|text or id|text|normalised text,"
            " without bars in the texts",
            name,
        )
    name = name.removeprefix("./").removeprefix("wavs/")
    name = sounds.get(name) or (name if _is_sound(name) else f"{name}.wav")
    if len(texts) == 1:
        return {"path": f"wavs/{name}", "text": texts[0]}
    values = dict(zip(columns[1:], texts, strict=True))
    normalised = values.pop(NORMALISED, "")
    values["text"] = normalised or values["text"]
    return {"path": f"wavs/{name}", **values}


def _rank(file: Path) -> int:
    suffix = file.suffix.lower()
    return SOUND_SUFFIXES.index(suffix) if suffix in SOUND_SUFFIXES else len(SOUND_SUFFIXES)


def _is_metadata(file: Path) -> bool:
    if file.name.startswith(".") or file.name.endswith(_OWN_LISTS):
        return False
    is_table = file.suffix.lower() in SUFFIXES.split()
    return is_table and file.is_file() and not is_token_file(file)


def _is_sound(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SOUND_SUFFIXES


def _walk(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield each sound file with its transcript; linked folders count, but once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen.add(real)
        spelled = {f"{Path(name).stem}{Path(name).suffix.lower()}": name for name in names}
        for name in filter(_is_sound, names):
            texts = (spelled.get(f"{Path(name).stem}{suffix}") for suffix in TEXT_SUFFIXES)
            found = next(filter(None, texts), None)
            yield Path(parent, name), Path(parent, found) if found else None


def _refuse(error: OSError) -> None:
    raise MetadataError(
        f"{error.filename}: cannot be read: {error.strerror}; make it readable, or move it away"
    ) from error


def _row(folder: Path, sound: Path, transcript: Path | None) -> dict[str, Any] | Unreadable:
    path = f"./{sound.relative_to(folder)}"  # a name with a blank or ~ in front stays what it is
    if transcript is None:
        reason = f"no transcript; write what is said into {sound.stem}.txt beside it"
        return Unreadable(reason, path)
    try:
        text = " ".join(read_text(transcript, MetadataError).split())
    except (MetadataError, OSError) as error:
        return Unreadable(f"its transcript cannot be read: {error}", path)
    if not text:
        return Unreadable(f"{transcript.name} is empty; write what is said into it", path)
    return {"path": path, "text": text}
