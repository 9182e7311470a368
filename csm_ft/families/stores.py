"""Token files of any family, those of other programs included: opened, checked, verified."""

import hashlib
import os
import shlex
from dataclasses import replace
from pathlib import Path

from csm_ft.data import token_file
from csm_ft.data.references import ReferencedSplit
from csm_ft.data.split import SPLITS, Split, Store, content_fingerprint
from csm_ft.errors import MachineError, StoreError
from csm_ft.families import DEFAULT_FAMILY, names, open_family
from csm_ft.families.base import Family

_MAX_CLIPS_SHOWN = 10  # per kind of problem and split


def open_store(path: Path, *, in_memory: bool = True) -> Store:
    """Open a token file; in_memory=False maps its arrays, so memory stays flat whatever the size.

    A file of another program is read into memory; with in_memory=False it is converted once into a
    hidden file beside it, which is mapped. Raises StoreError for anything else.
    """
    family, key = _foreign_family(path)
    if family is None:
        return _readable(_with_facts(token_file.open_store(path, in_memory=in_memory)))
    return family.open_foreign(path) if in_memory else _mapped_copy(path, family, key)


def open_tokens(path: Path, family: str = "", *, in_memory: bool, option: str = "data") -> Store:
    """Open a token file to train on, which `option` names.

    Raises StoreError as open_store does, when a source file that it refers to is missing or has
    changed, when a split is empty, and when the file was written for
    another family than `family` ("" = any); a missing file comes with the command that makes it.
    """
    if not path.is_file():
        program = "python pretokenize.py"
        if family and family != DEFAULT_FAMILY:
            program += f" --family {family}"
        raise StoreError(
            f"{path}: no such token file. Make it with\n  {program} --train_data train.json"
            f" --val_data val.json --output {shlex.quote(str(path))}\nor name another"
            f" with --{option}"
        )
    store = open_store(path, in_memory=in_memory)
    if family and store.info.family != family:
        raise StoreError(
            f"{path} was pretokenised for the family {store.info.family}, not for {family};"
            f" use --family {store.info.family}, or pretokenise again with --family {family}"
        )
    for name, split in store.splits.items():
        if isinstance(split, ReferencedSplit):
            split.check_sources()
        if not len(split):
            raise StoreError(
                f"{path} has no {name} clips; pretokenise with --train_data and --val_data (or"
                " --val_fraction)"
            )
    return store


def is_foreign(path: Path) -> bool:
    """Tell whether a file is a token file of another program."""
    return _foreign_family(path)[0] is not None


def verify(path: Path) -> list[str]:
    """Return what is wrong with a token file, with split and clips; empty for a sound file."""
    try:
        store = open_store(path, in_memory=is_foreign(path))
    except StoreError as error:
        return [str(error)]
    family = open_family(store.info.family)
    problems = []
    try:
        for split in store.splits.values():
            if isinstance(split, ReferencedSplit):
                split.check_sources()
    except StoreError as error:
        return [str(error)]
    for split in store.splits.values():
        found = {**_find_problems(split), **family.find_problems(split, store)}
        for what, rows in found.items():
            if rows:
                shown = ", ".join(map(str, rows[:_MAX_CLIPS_SHOWN]))
                more = ", ..." if len(rows) > _MAX_CLIPS_SHOWN else ""
                problems.append(
                    f"{split.name}: {len(rows)} clips with {what}: {shown}{more}; pretokenise again"
                )
    content = content_fingerprint(store.splits)
    if content != store.info.content_fingerprint:
        problems.append(
            f"content {content} is not what was written ({store.info.content_fingerprint}): bytes"
            " have changed; pretokenise again"
        )
    return problems


def _readable(store: Store) -> Store:
    """Return the store; splits that keep no sound learn how to read it from its files."""
    referenced = [split for split in store.splits.values() if isinstance(split, ReferencedSplit)]
    if referenced:
        encoder = open_family(store.info.family).open_encoder(store, "cpu")
        for split in referenced:
            split.read_with(encoder.reader(), encoder.sample_rate_hz)
    return store


def _with_facts(store: Store) -> Store:
    """Return the store; StoreError if it lacks facts that its family needs to read it."""
    wanted = open_family(store.info.family).fact_names if store.info.family in names() else ()
    missing = [name for name in wanted if name not in store.info.facts]
    if missing:
        raise StoreError(
            f"{store.path}: its facts lack {', '.join(missing)}, which a token file of the family"
            f" {store.info.family} has; pretokenise again"
        )
    return store


def _find_problems(split: Split) -> dict[str, list[int]]:
    seen: set[tuple[str, int]] = set()
    same_turn = []
    for row in range(len(split)) if split.has_conversations else ():
        place = (split.conversation(row), int(split.turns[row]))
        if place[0] and place in seen:
            same_turn.append(row)
        seen.add(place)
    return {"the place of an earlier clip in its conversation": same_turn}


def _foreign_family(path: Path) -> tuple[Family | None, str]:
    """Return the family that reads a token file of another program, and its key; None = ours."""
    if path.is_file() and not token_file.is_token_file(path):
        for family in map(open_family, names()):
            if key := family.foreign_key(path):
                return family, key
    return None, ""


def _mapped_copy(path: Path, family: Family, key: str) -> Store:
    """Map a file of another program by way of a copy beside it, kept while it does not change."""
    stat = path.stat()
    digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
    state = f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{digest}"
    copy = path.with_name(f".{path.name}.{state}.mapped")
    if not copy.is_file():
        store = family.open_foreign(path)
        # Several processes may convert at once: the last one stays.
        own = copy.with_name(f"{copy.name}.{os.getpid()}")
        try:
            token_file.write_store(own, store.info, {name: store.splits[name] for name in SPLITS})
        except (StoreError, MachineError) as error:
            raise StoreError(
                f"{path} is a file of another program, and mapping it takes a copy beside it."
                f" {error}; or load it into memory: leave out --partial_data_loading"
            ) from error
        own.replace(copy)
        for old in path.parent.glob(f".{path.name}.*.mapped"):
            if old != copy:
                old.unlink(missing_ok=True)
    return replace(token_file.open_store(copy, in_memory=False), path=path)
