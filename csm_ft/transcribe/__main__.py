"""Transcribe sound files of any length with a recogniser that was trained here.

    python -m csm_ft.transcribe talk.wav --model exp/run
    python -m csm_ft.transcribe recordings/*.flac --model exp/run --output out --format txt srt

The text goes to stdout; --output writes a file per recording and format, too.
"""

import sys
from collections.abc import Sequence

from csm_ft import cli
from csm_ft.families import open_family
from csm_ft.transcribe.config import TranscribeConfig


def main(argv: Sequence[str]) -> int:
    """Command line; 0 done, 2 a mistake of the user (what could be read is transcribed), 130."""
    return cli.run_program(lambda: _transcribe(argv))


def _transcribe(argv: Sequence[str]) -> int:
    config = cli.parse_args(
        TranscribeConfig,
        argv,
        program="-m csm_ft.transcribe",
        description=(__doc__ or "").split("\n")[0],
    )
    from csm_ft.console import console
    from csm_ft.runs.encoder_record import family_of
    from csm_ft.runs.source import find
    from csm_ft.transcribe.run import run  # imports torch

    with console.on_stderr():  # stdout is the text
        source = find(config.model)
        return run(config, source, open_family(family_of(source, config.family)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
