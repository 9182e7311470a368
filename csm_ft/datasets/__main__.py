"""Write what pretokenize.py would read of a corpus as metadata, and merge several.

python -m csm_ft.datasets auto FOLDER --output rows.jsonl         whatever it is
python -m csm_ft.datasets librispeech FOLDER --output rows.jsonl  that corpus, or an error
python -m csm_ft.datasets merge A.jsonl B.jsonl --output C.jsonl  several sets as one
python -m csm_ft.datasets segment FOLDER --output rows.jsonl      long recordings as clips with text
"""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from csm_ft.cli import parse_args, run_program
from csm_ft.config.base import Options, option
from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.chapters import join_chapters
from csm_ft.datasets.corpora import CORPORA
from csm_ft.datasets.labels import count_labels, merge_labels, read_map, use_votes
from csm_ft.datasets.merge import MergeConfig, merge
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.write import write_metadata
from csm_ft.errors import ConfigError
from csm_ft.segment.config import SegmentConfig

PROGRAM = "-m csm_ft.datasets"
DESCRIPTION = (
    "Write what pretokenize.py would read of a corpus as metadata; `merge` puts several together,"
    " `segment` cuts long recordings into clips."
)
MERGE_DESCRIPTION = (
    "Merge sets: speakers kept apart, duplicates left out, split by speaker, balanced by weights."
)
SEGMENT_DESCRIPTION = (
    "Cut long recordings (podcasts, lectures, calls) into clips with text, at pauses."
)


class DatasetsConfig(Options):
    """Options of `python -m csm_ft.datasets`."""

    corpus: str = option(
        "",
        f"What the folder holds: {', '.join(CORPORA)}; auto = told by its files.",
        group="data",
        positional=True,
    )
    path: str = option("", "Folder, or metadata file.", group="data", path=True, positional=True)
    output: str = option("", "Metadata to write, .jsonl.", group="data", path=True)
    map: list[str] = option(
        [],
        "Merge emotions, OLD=NEW, as calm=neutral; repeat for more.",
        group="data",
        repeatable=True,
    )
    label: Literal["acted", "voice"] = option(
        "acted",
        "Emotion of CREMA-D: the one that was acted, or the one that listeners heard; with voice,"
        " clips with as many votes for several are rejected.",
        group="data",
    )

    conversations: bool = option(
        False,
        "Recordings that are cut into files (LibriSpeech, MLS) as conversations: successive files"
        " are turns, which Moonshine joins to longer examples.",
        group="data",
    )

    @model_validator(mode="after")
    def _needs_all(self) -> Self:
        if not self.path or self.corpus not in ("auto", *CORPORA):
            raise ValueError(
                f"{self.corpus!r} is no corpus; python -m csm_ft.datasets CORPUS FOLDER --output"
                f" rows.jsonl, with one of auto, {', '.join(CORPORA)}"
            )
        if not self.output.endswith(".jsonl"):
            raise ValueError(f"--output {self.output or '(none)'}: name a file .jsonl")
        return self


def convert(config: DatasetsConfig) -> str:
    """Write the rows, and beside them those that cannot be used; return a summary."""
    path, output = Path(config.path), Path(config.output)
    if output.resolve().is_relative_to(path.resolve()):
        raise ConfigError(
            f"--output {output} is what is read, or lies in it: it would be read the next time;"
            " name another place"
        )
    corpus = None if config.corpus == "auto" else config.corpus
    rows, rejections = read_metadata(path, corpus=corpus, keep=None, tell=print)
    if not rows:
        raise ConfigError(f"{path}: no row can be used; the first: {rejections[0]}")
    if config.label == "voice":
        rows, unheard = use_votes(rows)
        rejections += unheard
    rows = merge_labels(rows, read_map(config.map))
    if config.conversations:
        rows = join_chapters(rows)
    rejected = write_metadata(output, rows, rejections)
    return "\n".join(_summary(output, rejected, rows, rejections))


def _summary(
    output: Path, rejected: Path, rows: Sequence[Row], rejections: Sequence[Rejection]
) -> list[str]:
    splits = Counter(row.split or "no split" for row in rows)
    shown = ", ".join(f"{count} {name}" for name, count in splits.items())
    speakers = len({row.speaker for row in rows if row.speaker})
    lines = [f"{output}: {len(rows)} rows ({shown}), {speakers} speakers"]
    lines += count_labels(rows)
    turns = [row for row in rows if row.conversation]
    if turns:
        talks = len({row.conversation for row in turns})
        lines.append(f"{len(turns)} rows are turns of {talks} conversations")
    if rejections:
        lines.append(f"{rejected}: {len(rejections)} that cannot be used; {rejections[0]}")
    return [*lines, f"next: python pretokenize.py --train_data {shlex.quote(str(output))}"]


def main(argv: Sequence[str]) -> int:
    """Command line; 0 written, 2 user error."""
    if argv and argv[0] == "merge":
        return run_program(lambda: _merge(argv[1:]))
    if argv and argv[0] == "segment":
        return run_program(lambda: _segment(argv[1:]))

    def program() -> int:
        config = parse_args(DatasetsConfig, argv, program=PROGRAM, description=DESCRIPTION)
        print(convert(config))
        return 0

    return run_program(program)


def _merge(argv: Sequence[str]) -> int:
    merge(parse_args(MergeConfig, argv, program=f"{PROGRAM} merge", description=MERGE_DESCRIPTION))
    return 0


def _segment(argv: Sequence[str]) -> int:
    program = f"{PROGRAM} segment"
    config = parse_args(SegmentConfig, argv, program=program, description=SEGMENT_DESCRIPTION)
    from csm_ft.segment.run import segment  # torch, for the recogniser

    segment(config)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
