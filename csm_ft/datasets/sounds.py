"""Names of sound files: which names are those, and which file on disk a metadata file means."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from csm_ft.text_file import nfc

_READ = ".wav .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .caf .w64 .rf64 .voc .sph"
_NOT_READ = ".m4a .aac .wma .amr"  # not by libsndfile: they are rejected with that reason
SOUND_SUFFIXES = (*_READ.split(), *_NOT_READ.split())


def is_sound(name: str) -> bool:
    """Tell whether a file of that name is a sound file; hidden ones are not."""
    return not name.startswith(".") and Path(name).suffix.lower() in SOUND_SUFFIXES


def rank_of(name: str) -> int:
    """Return the place of a name in the order in which formats are preferred."""
    suffix = Path(name).suffix.lower()
    return SOUND_SUFFIXES.index(suffix) if suffix in SOUND_SUFFIXES else len(SOUND_SUFFIXES)


@lru_cache(maxsize=65536)  # many rows are spans of one file
def find_sound(folder: Path, name: str) -> Path:
    """Return the absolute path of the file that a metadata file in `folder` means by `name`.

    As it is spelled; else with its accents composed or decomposed as on disk, with other capitals
    in the suffix, or with backslashes for slashes. A path as spelled if there is no such file.
    """
    # pathlib is slow for a million rows.
    given = os.path.expanduser(name)  # noqa: PTH111
    parent, last = _split(folder, given)
    found = _find(parent, last)
    if found is None and "\\" in given:
        found = _find(*_split(folder, given.replace("\\", "/")))
    return found or parent / last


def _find(parent: Path, last: str) -> Path | None:
    there = _find_folder(str(parent))
    names = _names(str(there)).get(_plain(last)) if there else None
    return there / (last if last in names else names[0]) if there and names else None


def _split(folder: Path, name: str) -> tuple[Path, str]:
    parent, last = os.path.split(os.path.join(folder, name))  # noqa: PTH118
    return _real(parent), last


@lru_cache(maxsize=65536)
def _real(folder: str) -> Path:
    """Resolve links and .. once per folder: two spellings of one file must be one source."""
    return Path(os.path.realpath(folder))


@lru_cache(maxsize=65536)
def _find_folder(folder: str) -> Path | None:
    """Return a folder, or the one whose name has the same letters in another form of Unicode."""
    path = Path(folder)
    if path.is_dir():
        return path
    above = _find_folder(str(path.parent)) if path.parent != path else None
    found = _names(str(above)).get(_plain(path.name)) if above else None
    return above / found[0] if above and found and (above / found[0]).is_dir() else None


@lru_cache(maxsize=1024)
def _names(folder: str) -> Mapping[str, list[str]]:
    """Return the names in a folder by their plain form; none where it cannot be read."""
    names: dict[str, list[str]] = {}
    try:
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            names.setdefault(_plain(name), []).append(name)
    except OSError:
        return {}
    return names


def _plain(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return nfc(stem) + suffix.lower()


def forget_folders() -> None:
    """Forget what was read of folders: files may have come since."""
    for cached in (find_sound, _real, _find_folder, _names):
        cached.cache_clear()
