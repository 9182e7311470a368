"""Several sets of metadata as one list of rows, in which speakers stay apart."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from csm_ft.console import shorten
from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.tree import Tell
from csm_ft.errors import ConfigError, MetadataError


def read_sets(paths: Sequence[Path], output: Path, tell: Tell) -> tuple[list[Row], list[Rejection]]:
    """Read all sets; every row gets a `source`, and its speaker and conversation the name of it.

    The source is that of the row, else the name of its file. A speaker or conversation that has the
    name in front already stays as it is, so that merged sets can be merged again. Rows without a
    speaker get the source as theirs.

    Raises:
        ConfigError: a set is named twice, two have one name, names of two sources would be the
            same, or the output is one of the sets.
        MetadataError: a set cannot be read, or has no row that can be used.

    """
    _check_paths(paths, output)
    names = _names(paths)
    rows: list[Row] = []
    rejections: list[Rejection] = []
    for path, name in zip(paths, names, strict=True):
        found, bad = read_metadata(path, keep=None, tell=tell)
        if not found:
            raise MetadataError(f"{path}: no row can be used; the first: {bad[0]}")
        unnamed = sum(row.speaker is None for row in found)
        if unnamed:
            tell(f"{path}: {unnamed} rows name no speaker: the name of their set is taken")
        named = [_named(row, name) for row in found]
        rows += named
        sources = {
            row.conversation: new.tags["source"] for row, new in zip(found, named, strict=True)
        }
        rejections += [_named_rejection(one, sources.get(one.conversation, name)) for one in bad]
    _check_apart(rows)
    return rows, rejections


def _check_apart(rows: Sequence[Row]) -> None:
    """Refuse names that two sources share: en-1 of esd is 1 of esd-en."""
    sources: dict[tuple[str, str], str] = {}
    for row in rows:
        names = (("speaker", row.speaker or ""), ("conversation", row.conversation))
        for what, name in (named for named in names if named[1]):
            source = sources.setdefault((what, name), row.tags["source"])
            if source != row.tags["source"]:
                raise ConfigError(
                    f"{row.where}: {what} {name} would be one of {source} and one of"
                    f" {row.tags['source']}; rename one of the two sources"
                )


def _check_paths(paths: Sequence[Path], output: Path) -> None:
    real = [path.resolve() for path in paths]
    twice = [str(path) for path, count in Counter(real).items() if count > 1]
    if twice:
        raise ConfigError(f"{shorten(twice)}: named twice; name every set once")
    for path, there in zip(paths, real, strict=True):
        if output.resolve().is_relative_to(there):
            raise ConfigError(
                f"--output {output} is {path}, which is read, or lies in it; name another place"
            )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the files, with that of the folder where several have one name."""
    real = [path.resolve() for path in paths]
    names = [path.stem for path in real]
    for index, count in enumerate([names.count(name) for name in names]):
        if count > 1:
            names[index] = f"{real[index].parent.name}-{real[index].stem}"
    twice = [str(path) for path, name in zip(paths, names, strict=True) if names.count(name) > 1]
    if twice:
        raise ConfigError(
            f"{shorten(twice)}: sets of one name, whose speakers could not be told apart; rename"
            " the files"
        )
    return names


def _named(row: Row, set_name: str) -> Row:
    """Return a row whose speaker and conversation bear the name of its set, once."""
    source = row.tags.get("source") or set_name
    return replace(
        row,
        speaker=_prefixed(row.speaker or "", source),
        conversation=_prefixed(row.conversation, source) if row.conversation else "",
        tags={**row.tags, "source": source},
    )


def _named_rejection(one: Rejection, source: str) -> Rejection:
    if not one.conversation:
        return one
    return replace(one, conversation=_prefixed(one.conversation, source))


def _prefixed(name: str, source: str) -> str:
    """Return `source-name`; a name that has the prefix already stays."""
    prefix = re.sub(r"[\s\[\]]+", "_", source)
    if not name or name == prefix:
        return prefix
    return name if name.startswith(f"{prefix}-") else f"{prefix}-{name}"
