"""What every metadata format is read into: a table of columns, rows, lists of turns.

And what all readers share: the names of columns, texts in UTF-8, errors that name the file.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csm_ft.console import shorten
from csm_ft.errors import MetadataError

SUFFIXES = ".json .jsonl .jsonl.gz .csv .tsv .sql .sqlite .db .parquet .hdf5 .h5"
ALIASES = {
    "path": ("path", "audio"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "start": ("start", "start_sec"),
    "end": ("end", "end_sec"),
    "duration": ("duration", "duration_sec"),
    "channel": ("channel",),
    "speaker": ("speaker", "speaker_id"),
    "conversation": ("conversation", "conversation_id"),
    "turn": ("turn",),
    "split": ("split",),
    "weight": ("weight",),
}
# Further columns that are kept wherever they are; others only where a text template names them.
TAGS = ("emotion", "intensity", "style", "gender", "language", "source")
# Names of other programs count where no column of the names above has a value.
OTHER_ALIASES = {
    "path": ("audio_file", "audio_filepath", "file_name", "filename", "file", "wav_filename"),
    "speaker": ("speaker_name", "client_id"),
    "start": ("offset", "start_time", "begin", "begin_time"),
    "end": ("end_time", "stop"),
}
TURNS = "turns"  # the column that holds a list of turns
_OTHER_NAMES = {name: ", ".join(aliases[1:]) for name, aliases in ALIASES.items()}
NEEDED = " and ".join(f"{name} (or {_OTHER_NAMES[name]})" for name in ("path", "text"))

_FIELD_OF: dict[str, str] = {}
for _names in (ALIASES, OTHER_ALIASES):
    for _field, _aliases in _names.items():
        _FIELD_OF |= dict.fromkeys(_aliases, _field)
_OTHER = frozenset(name for aliases in OTHER_ALIASES.values() for name in aliases)


@dataclass(frozen=True)
class Columns:
    """Which column fills which field: by the names above, or as the user says.

    Capitals and spaces around a name do not matter. Numbers, from 1, are those of the columns of a
    table without a header.
    """

    given: Mapping[str, str] = field(default_factory=dict)  # field -> its only column
    _known: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)
    _orders: dict[tuple[str, ...], list[tuple[str, str | None, bool]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def are_numbers(self) -> bool:
        """Whether the user has numbered the columns: the table has no header."""
        return bool(self.given) and all(name.strip().isdigit() for name in self.given.values())

    def field_of(self, column: str) -> str | None:
        """Return which field a column fills, None for none."""
        if column not in self._known:
            self._known[column] = self._find_field(column)
        return self._known[column]

    def in_order(self, names: tuple[str, ...]) -> list[tuple[str, str | None, bool]]:
        """Return the columns of a row as they are read, those with other programs' names last.

        Each with its field, and whether it has such a name. Most rows have the same columns, so
        this is found once.
        """
        if names not in self._orders:
            found = [(name, self.field_of(name), _is_other_alias(name)) for name in names]
            self._orders[names] = sorted(found, key=lambda one: one[2])
        return self._orders[names]

    def check_header(self, path: Path, names: Sequence[str]) -> None:
        """Raise MetadataError when a column that is read is there twice."""
        known = [str(name).strip().lower() for name in names if self.field_of(name)]
        twice = repeated(known)
        if twice:
            raise MetadataError(f"{path}: has column {show_all(twice)} twice; keep one")

    def _find_field(self, column: str) -> str | None:
        name = str(column).strip().lower()
        for one, only in self.given.items():
            if name == only.strip().lower():
                return one
        found = _FIELD_OF.get(name)
        return None if found in self.given else found


@dataclass(frozen=True)
class Unreadable:
    """Stands for a row that cannot be read as columns."""

    reason: str
    path: str = ""  # of the sound file, where it is known
    times: Mapping[str, Any] = field(default_factory=dict)  # start and end in it, where known


@dataclass(frozen=True)
class Turns:
    """A row that is a conversation.

    The records of its turns, and the columns beside them, which hold for each turn that lacks them.
    """

    turns: Sequence[dict[str, Any] | Unreadable]
    defaults: Mapping[str, Any]


TableRow = dict[str, Any] | Turns | Unreadable
Table = tuple[Sequence[str], Sequence[TableRow]]  # names of the columns, rows


def show(value: Any) -> str:
    """Return a value as a message shows it: on one line, and not too long."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def show_all(values: Iterable[Any]) -> str:
    """Return values as a message shows them: the first dozen, or `nothing`."""
    return shorten(map(show, values)) or "nothing"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the system while `path` is read into a MetadataError that names it."""
    try:
        yield
    except OSError as error:
        raise MetadataError(
            f"{path}: cannot be read: {error.strerror or error}; make it readable or write it again"
        ) from error


def _is_other_alias(column: str) -> bool:
    return str(column).strip().lower() in _OTHER


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted({name for name in names if names.count(name) > 1})
