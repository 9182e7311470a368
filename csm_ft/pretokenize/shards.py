"""Shares of the clips that are encoded by different processes or machines, and their merging.

A share is kept in `<output>.2-of-4.parts`, parts as those of any run. `done.json` in it names the
clips of all shares together, so that shares of other rows, sounds or options are told apart. The
command without --shard finds the shares beside its output, and encodes nothing.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.config.shard import Shard
from csm_ft.errors import ConfigError
from csm_ft.pretokenize.clips import Span

_DONE = "done.json"


def folder_of(output: Path, part: Shard) -> Path:
    """Return where the parts of a share are kept, or those of the whole."""
    return Path(f"{output}{part.suffix}.parts")


def find_shards(output: Path) -> dict[Shard, Path]:
    """Return the folders of all shares beside an output, in order."""
    pattern = re.compile(rf"{re.escape(output.name)}\.(\d+)-of-(\d+)\.parts")
    names = {path.name: path for path in output.parent.glob("*.parts")}
    found = ((pattern.fullmatch(name), path) for name, path in names.items())
    return dict(sorted((Shard(int(m[1]), int(m[2])), path) for m, path in found if m))


def share_of(clips: Mapping[str, Span], part: Shard) -> dict[str, Span]:
    """Return the clips of a share: the same whatever the order of the rows, and of all lengths."""
    in_order = sorted(clips, key=lambda id_: (clips[id_].num_rows, id_))
    return {id_: clips[id_] for id_ in part.take(in_order)}


def mark_done(folder: Path, clips: Collection[str], num_rejected: int) -> None:
    """Note that a share of these clips is encoded."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"clips": _name_of(clips), "num_rejected": num_rejected}
    write_whole(folder / _DONE, json.dumps(facts))


def check_shards(output: Path, clips: Collection[str]) -> None:
    """Check that the shares beside an output, if there are any, are all that these clips need.

    Raises ConfigError that names each share which is missing, unfinished, or of other clips.
    """
    found = find_shards(output)
    if not found:
        return
    counts = sorted({part.num_parts for part in found})
    if len(counts) > 1:
        raise ConfigError(
            f"{output.parent} has shares of {' and of '.join(map(str, counts))} parts of"
            f" {output.name}; remove the folders {output.name}.*-of-N.parts of all but one N"
        )
    problems: list[str] = []
    for number in range(1, counts[0] + 1):
        part = Shard(number, counts[0])
        name, path = f"{number}/{counts[0]}", folder_of(output, part)
        if part not in found:
            problems.append(f"--shard {name} is missing: there is no {path}")
        elif not (path / _DONE).is_file():
            problems.append(f"--shard {name} is not finished: there is no {path / _DONE}")
        elif json.loads((path / _DONE).read_text(encoding="utf-8"))["clips"] != _name_of(clips):
            problems.append(f"--shard {name} is of other rows, sounds or options: {path}")
    if problems:
        raise ConfigError(
            f"{output} cannot be merged:\n  " + "\n  ".join(problems) + "\nRun the same command"
            " with each of these --shard options, with the same data and token file as the others,"
            " and put its folder there; a share that is encoded already takes seconds. Or remove"
            f" {output.name}.*-of-{counts[0]}.parts to encode all of it here"
        )


def _name_of(clips: Collection[str]) -> str:
    return hashlib.blake2b("\n".join(sorted(clips)).encode(), digest_size=16).hexdigest()
