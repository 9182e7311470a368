"""Metadata to rows: which sound file, what is said in it, from where to where, by whom.

Reads json jsonl csv tsv sqlite parquet hdf5 with the columns of tables.py in any mix over the rows;
other columns are not used, which is told. Or a folder: a corpus (corpora/), or one of folders.py. A
row that cannot be used becomes a Rejection with its reason; only a file that cannot be read at all
is an error. Sound files are not opened here.

Rows of one conversation are its turns, in the order of their numbers, or of the rows where there
are none. Every row counts, good or not: a rejected one leaves a hole, so that the turn after it is
not taken for the answer to the one before.
"""

import difflib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft.console import shorten
from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.checked import (
    Checked,
    Record,
    find_splits_in_paths,
    number_channels,
    place_turns,
)
from csm_ft.datasets.corpora import CORPORA, find_corpus
from csm_ft.datasets.corpora.base import Corpus
from csm_ft.datasets.corpora.common_voice import is_list, read_list
from csm_ft.datasets.corpora.prepared import is_manifest
from csm_ft.datasets.corpora.wav_lists import read_one
from csm_ft.datasets.folders import (
    find_splits,
    find_tables,
    is_table,
    is_wav_list,
    one_table,
    only_folder,
    read_folder,
)
from csm_ft.datasets.formats import read_table
from csm_ft.datasets.sounds import find_sound, forget_folders, is_sound
from csm_ft.datasets.tables import ALIASES, TAGS, Columns, Turns, Unreadable, reading, show
from csm_ft.datasets.tree import Record as FoundRecord
from csm_ft.datasets.tree import Tell, Tree
from csm_ft.datasets.turn_rows import is_turn, join_turns
from csm_ft.datasets.values import Reason, read_values
from csm_ft.datasets.words import COLUMNS, WordLists, spread_turns
from csm_ft.errors import MetadataError

_RESEMBLES = 0.7  # likeness of a column's name to a known one, from which it is told
_SPAN_TOLERANCE_SEC = 1e-3  # how far end and start + duration may lie apart, if a row has all three


def read_metadata(
    path: Path,
    *,
    sql_table: str = "data",
    columns: Columns | None = None,
    corpus: str | None = None,
    splits: Collection[str] = (),
    keep: Collection[str] | None = TAGS,
    words: WordLists | None = None,
    tell: Tell = lambda _: None,
) -> tuple[list[Row], list[Rejection]]:
    """Read a metadata file by its suffix, or a folder; `sql_table` is the table of an SQLite file.

    A folder must hold the `corpus` of that name; without a name, its files tell. Of a folder whose
    parts are splits only the `splits` are read, all if there are none of these. Of further columns
    those of `keep` (lower case) become the tags of a row, with None all. With `words` rows have
    words with times, and their text is what these say, unless they have one. `tell` is called with
    what the data were taken for, and with what of them is not used.

    Returns:
        The good rows and the others, each in the file's order.

    Raises:
        MetadataError: no such file, unknown suffix, not readable in that format, no column for path
            or text, a column twice, no rows; a folder with neither metadata nor sound files, or
            with several metadata files.

    """
    forget_folders()
    reader = _Reader(sql_table, columns or Columns(), splits, keep, tell, words)
    records = reader.corpus(path, CORPORA[corpus]) if corpus else reader.records(path)
    checked = [reader.check(record) for record in records]
    for line in join_turns(checked):
        tell(f"{path}: {line}")
    if not checked:
        raise MetadataError(
            f"{path}: holds no row that can be read; name the folder above or below"
        )
    number_channels(checked)
    found = find_splits_in_paths(checked)
    if found:
        tell(f"{path}: the folders in its paths are its splits: {', '.join(found)}")
    num_turns = sum(item.num_turns for item in checked)
    if num_turns:
        tell(
            f"{path}: {num_turns} turns of several words have times, their words have none: these"
            " are spread over the turn, by their letters"
        )
    for split in dict.fromkeys(item.record.split for item in checked):
        of_part = [item for item in checked if item.record.split == split]
        if any(item.conversation for item in of_part):
            place_turns(of_part)
    rows = [item.row for item in checked if item.row and not item.reason]
    return rows, [item.rejection() for item in checked if item.reason]


@dataclass(frozen=True)
class _Reader:
    """How metadata are read."""

    sql_table: str
    columns: Columns
    splits: Collection[str]
    keep: Collection[str] | None
    tell: Tell
    words: WordLists | None

    def corpus(self, path: Path, corpus: Corpus) -> Iterator[Record]:
        """Yield every row of a folder that must hold a corpus; MetadataError if it does not."""
        tree = Tree(path)
        if not corpus.is_in(tree):
            found = (
                find_corpus(tree, "top") or find_corpus(tree, "names") or find_corpus(tree, "files")
            )
            hint = "name the folder that holds it"
            if found:
                name = next(name for name, one in CORPORA.items() if one is found)
                hint = (
                    f"it looks like {found.title}: python -m csm_ft.datasets {name} {path}"
                    f" --output {name}.jsonl"
                )
            raise MetadataError(f"{path}: does not hold {corpus.title} as it is known; {hint}")
        yield from self._corpus(tree, corpus, "")

    def records(self, path: Path, split: str = "", part: str = "") -> Iterator[Record]:
        """Yield every row of a file or folder, and every turn of a row.

        `split` is what the name of a `part` of a folder says.
        """
        with reading(path):
            is_folder = path.is_dir()
        if not is_folder:
            yield from self._file(path, split, part)
            return
        tree = Tree(path)
        corpus = find_corpus(tree, "top")
        if corpus is None and all(map(is_manifest, find_tables(tree))):
            corpus = find_corpus(tree, "names")
        parts = [] if corpus else find_splits(tree)
        table = None if corpus or parts else one_table(tree)
        inner = None if corpus or parts or table else only_folder(tree)
        if parts:
            yield from self._parts(tree, parts)
        elif inner:
            yield from self.records(inner, split, part)
        elif table:
            self.tell(f"{path} is a folder: its metadata is {table.name}")
            yield from self._file(table, split, part)
        elif corpus := corpus or find_corpus(tree, "files"):
            self.tell(f"{path} is {corpus.title}")
            yield from self._corpus(tree, corpus, split)
        elif self.words:
            self.tell(f"{path} is a folder without metadata: its sound files are the dialogues")
            for folder in tree.folders:
                for sound in tree.sounds(folder).values():
                    columns = {"path": f"./{sound.relative_to(path)}"}
                    yield Record(str(sound), columns, Path.cwd() / path, split)
        else:
            self.tell(
                f"{path} is a folder without metadata: its sound files are the clips, the text"
                " file beside each its text"
            )
            for where, columns in read_folder(tree, self.tell):
                yield Record(where, columns, Path.cwd() / path, split)

    def _parts(self, tree: Tree, parts: Sequence[tuple[str, Path]]) -> Iterator[Record]:
        wanted = [part for part in parts if part[0] in self.splits] or parts
        names = ", ".join(f"{part.name} is {name}" for name, part in wanted)
        known = [part for _, part in wanted]
        others = [path.name for path in tree.top if path.is_dir() or is_table(path)]
        left = [name for name in others if name not in {part.name for part in known}]
        left_out = f"; left out: {shorten(left)}" if left else ""
        self.tell(f"{tree.folder} is a folder with splits: {names}{left_out}")
        for name, part in wanted:
            yield from self.records(part, name, part.name)

    def _corpus(self, tree: Tree, corpus: Corpus, split: str) -> Iterator[Record]:
        if self.columns.given:
            self.tell(f"--columns is not used: {tree.folder} is {corpus.title}")
        with reading(tree.folder):
            found = list(corpus.read(tree, self.tell))
        self._tell_unused_sounds(tree, found)
        for where, columns in found:
            if split and isinstance(columns, dict):
                columns.pop("split", None)  # the name of the part counts
            yield Record(where, columns, Path.cwd(), split)

    def _tell_unused_sounds(self, tree: Tree, found: Sequence[FoundRecord]) -> None:
        """Say how many sounds in the folder of a corpus are not of it."""
        used = {
            os.fspath(columns["path"] if isinstance(columns, dict) else columns.path)
            for _, columns in found
            if not isinstance(columns, dict) or "path" in columns
        }
        known = [path for paths in tree.left_out.values() for path in paths]
        used = {os.path.realpath(path) for path in (*used, *known)}
        counts = {kind: len(paths) for kind, paths in tree.left_out.items() if paths}
        counts |= {"hidden files": tree.num_hidden} if counts and tree.num_hidden else {}
        if counts:
            shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            self.tell(f"{tree.folder}: left out are {shown}")
        unused = [p for p in tree.files if is_sound(p.name) and os.path.realpath(p) not in used]
        if unused:
            first = unused[0].relative_to(tree.folder)
            self.tell(f"{len(unused)} other sound files in {tree.folder} are not read, as {first}")

    def _file(self, path: Path, split: str, part: str) -> Iterator[Record]:
        if is_wav_list(path, self.columns):
            for where, columns in read_one(path, path.parent, self.columns, self.tell):
                yield Record(where, columns, Path.cwd(), split)
            return
        folder, columns = Path.cwd() / path.parent, self.columns
        if is_list(path):
            self.tell(f"{path} is a table of Common Voice: its paths are below clips/")
            folder, columns = Path.cwd(), Columns()
            rows = read_list(path)
        else:
            names, rows = read_table(
                path,
                sql_table=self.sql_table,
                columns=columns,
                tell=self.tell,
                has_text=self.words is None,
            )
            self._tell_unused(path, names)
        for number, row in enumerate(rows, start=1):
            where = f"{path} row {number}"
            if isinstance(row, Turns) and self.words:
                # The turns of one sound, not clips of their own.
                turns = {COLUMNS[0]: list(row.turns)}
                yield Record(where, {**row.defaults, **turns}, folder, split, names=columns)
            elif isinstance(row, Turns):
                conversation = f"{part} row {number}".strip()
                for place, turn in enumerate(row.turns, start=1):
                    turn_where = f"{where} turn {place}"
                    yield Record(
                        turn_where, turn, folder, split, row.defaults, conversation, columns
                    )
            else:
                yield Record(where, row, folder, split, names=columns)

    def _tell_unused(self, path: Path, names: Iterable[str]) -> None:
        """Say which columns are not used, and which of them look like one that is."""
        unused = [name for name in names if not self._is_used(name)]
        if not unused:
            return
        known = {alias: one for one, aliases in ALIASES.items() for alias in aliases}
        taken = {self.columns.field_of(name) for name in names}
        near = {
            name: known[found[0]]
            for name in unused
            if not name.lower().endswith("_ms")  # all times are in seconds
            if (found := difflib.get_close_matches(name.lower(), known, 1, _RESEMBLES))
        }
        hints = [f"{one}={name}" for name, one in near.items() if one not in taken]
        hint = f"; is one of them meant to be? --columns {' '.join(hints)}" if hints else ""
        self.tell(f"{path}: columns that are not used: {shorten(unused)}{hint}")

    def _is_used(self, name: str) -> bool:
        word = str(name).strip().lower()
        is_tag = self.keep is None or word in self.keep
        is_tag = is_tag or (self.words is not None and word in COLUMNS)
        return is_tag or self.columns.field_of(name) is not None

    def check(self, record: Record) -> Checked:
        """Read the values of a row."""
        columns = record.columns
        is_readable = not isinstance(columns, Unreadable)
        known = columns.times if isinstance(columns, Unreadable) else columns
        values, reasons = read_values(known, record.names, self.keep)
        if record.defaults:
            default_values, default_reasons = read_values(record.defaults, record.names, self.keep)
            tags = {**default_values.get("tags", {}), **values.get("tags", {})}
            needed = default_reasons.keys() - values.keys()
            reasons |= {name: reason for name, reason in default_reasons.items() if name in needed}
            values = {**default_values, **values, "tags": tags}
        if record.conversation:
            values.setdefault("conversation", record.conversation)
        values.setdefault("split", record.split)
        checked = Checked(
            record,
            conversation=values.get("conversation", "" if is_readable else None),
            turn=None if "turn" in reasons else values.get("turn"),
            split=values["split"],
        )
        if "conversation" in reasons:
            checked.conversation = None
        if isinstance(columns, Unreadable):
            checked.reason = columns.reason
            checked.set_span(_span(values))
            return checked
        if self.words and "path" in values:
            sound, raw = find_sound(record.folder, values["path"]), _words_of(columns)
            words = self.words.find(raw, sound, record.folder)
            checked.is_turn = is_turn(values, words)
            if checked.is_turn:
                pass  # its words come with those of the other turns
            elif isinstance(words, Reason):
                reasons["words"] = words
            else:
                values["words"], checked.num_turns = spread_turns(words)
                if words:
                    values.setdefault("text", " ".join(one.text for one in words))
        outcome = _check_row(record.where, values, reasons, record.folder)
        if isinstance(outcome, Row):
            checked.row = outcome
        else:
            checked.reason = outcome
            checked.set_span(_span(values))
        return checked


def _check_row(
    where: str, values: Mapping[str, Any], reasons: Mapping[str, Reason], folder: Path
) -> Row | Reason:
    for reason in reasons.values():
        return reason
    for name in ("path", "text"):
        if name not in values:
            return Reason(f"{name} is missing or empty; fill it in or drop the row")
    if "\n" in values["text"] and _has_suffix_of(values["path"], values["text"]):
        return Reason(
            f"the text runs over several rows, {show(values['text'])}: a quote mark is not closed;"
            " double the quotes in texts"
        )
    if "turn" in values and "conversation" not in values:
        return Reason(
            f"turn {values['turn']} is of no conversation; name it in the column conversation, or"
            " leave turn out"
        )
    span = _span(values)
    if isinstance(span, Reason):
        return span
    return Row(
        where=where,
        path=find_sound(folder, values["path"]),
        text=values["text"],
        speaker=values.get("speaker"),
        start_sec=span[0],
        end_sec=span[1],
        conversation=values.get("conversation", ""),
        channel=values.get("channel", ""),
        split=values["split"],
        tags=values.get("tags", {}),
        weight=values.get("weight", 1.0),
        words=values.get("words", ()),
    )


def _words_of(columns: Mapping[str, Any]) -> Any:
    """Return the column of words of a row, or None."""
    found = (columns[name] for name in columns if str(name).strip().lower() in COLUMNS)
    return next(found, None)


def _has_suffix_of(path: str, text: str) -> bool:
    suffix = Path(path).suffix
    return suffix != "" and suffix in text


def _span(values: Mapping[str, Any]) -> tuple[float | None, float | None] | Reason:
    """Return start and end in seconds, from start, end and duration."""
    start_sec, end_sec = values.get("start"), values.get("end")
    duration_sec = values.get("duration")
    if start_sec is not None and start_sec < 0:
        return _bad_span(values, f"start_sec {start_sec} is below 0")
    if duration_sec is not None:
        if duration_sec <= 0:
            return _bad_span(values, f"duration_sec {duration_sec} is not above 0")
        sum_sec = round((start_sec or 0.0) + duration_sec, 9)  # 1.1 + 2.2 = 3.3
        if end_sec is None:
            end_sec = sum_sec
        elif abs(end_sec - sum_sec) > _SPAN_TOLERANCE_SEC:
            rule = f"start_sec {start_sec or 0.0} + duration_sec {duration_sec}"
            return _bad_span(values, f"end_sec {end_sec} is not {rule}")
    if end_sec is not None and end_sec <= (start_sec or 0.0):
        return _bad_span(values, f"end_sec {end_sec} is not after start_sec {start_sec or 0.0}")
    return start_sec, end_sec


def _bad_span(values: Mapping[str, Any], problem: str) -> Reason:
    clip = show(values.get("path", ""))
    return Reason(f"{problem} (clip {clip}); drop the row or fix the span")
