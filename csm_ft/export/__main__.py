"""Write weights in the layout of another program, which reads them back before they count.

    python -m csm_ft.export exp/run --format sesame         Sesame's Model.from_pretrained
    python -m csm_ft.export exp/run --format transformers   transformers; of a LoRA run, peft
    python -m csm_ft.export exp/run --format merged         transformers, adapters merged in
    python -m csm_ft.export sesame/csm-1b --format transformers --output DIR      a converter, too

The first argument is a run, a sweep, a checkpoint, or any other weights: a folder or file in a
layout that the family reads, or a hub name.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from csm_ft import cli
from csm_ft.config.base import Options, option
from csm_ft.errors import ConfigError, ExportError
from csm_ft.families import DEFAULT_FAMILY, open_family


class ExportOptions(Options):
    """Options of `python -m csm_ft.export`."""

    run: str = option(
        "",
        "Run, sweep or checkpoint folder, or other weights: folder, file or hub name.",
        group="weights",
        path=True,
        positional=True,
    )
    checkpoint: str = option("", "best, last or step_000500; empty = best.", group="weights")
    family: str = option("auto", "Model family; auto = that of the weights.", group="weights")
    format: str = option("", "Layout to write; one of the family's.", group="export")
    output: str = option(
        "", "Folder to write; empty = RUN/export-FORMAT.", group="export", path=True
    )
    dtype: Literal["fp32", "bf16"] = option("fp32", "Of the weights.", group="export")

    @model_validator(mode="after")
    def _needs_weights(self) -> Self:
        if not self.run:
            raise ValueError("RUN is missing: name a run, a folder of weights, or a hub name")
        return self


def main(argv: Sequence[str]) -> int:
    """Command line.

    0 done, 1 the export differs from the run or could not be written, 2 a mistake in the options.
    """
    return cli.run_program(lambda: _export(argv))


def _export(argv: Sequence[str]) -> int:
    name = cli.peek(argv, ("family",)).get("family", "auto")
    formats = ", ".join(open_family(DEFAULT_FAMILY if name == "auto" else name).exporters)
    options = cli.parse_args(
        ExportOptions,
        argv,
        program="-m csm_ft.export",
        description=f"{(__doc__ or '').splitlines()[0]} Formats: {formats}.",
    )
    from csm_ft.runs.encoder_record import family_of
    from csm_ft.runs.source import find

    source = find(options.run, options.checkpoint)
    family = open_family(family_of(source, name))
    if options.format not in list(family.exporters):
        given = f"--format {options.format}" if options.format else "--format is missing"
        raise ConfigError(
            f"{given}: choose among {', '.join(family.exporters)} (family {family.name})"
        )
    from csm_ft.export.run import default_output, export  # imports torch

    output = Path(options.output) if options.output else default_output(source, options.format)
    try:
        export(source, family, options.format, output, options.dtype)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
