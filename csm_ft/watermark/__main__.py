"""Find watermarks in sound files.

python -m csm_ft.watermark detect a.wav b.wav     exit 0: all hold the key, 1: some do not
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from csm_ft.cli import parse_args, run_program
from csm_ft.config.base import Options, option

PROGRAM = "-m csm_ft.watermark"
DESCRIPTION = "Find watermarks in sound files: python -m csm_ft.watermark detect a.wav b.wav"


class WatermarkConfig(Options):
    """Options of `python -m csm_ft.watermark`."""

    command: Literal["", "detect"] = option("", "detect.", group="file", positional=True)
    paths: list[str] = option([], "Sound files.", group="file", path=True, positional=True)

    @model_validator(mode="after")
    def _needs_files(self) -> Self:
        if self.command != "detect" or not self.paths:
            raise ValueError(f"no sound file: python {PROGRAM} detect a.wav b.wav")
        return self


def detect(config: WatermarkConfig) -> int:
    """Print whether each file holds the key; return 0 if all do, else 1."""
    from csm_ft.data import audio
    from csm_ft.watermark.silentcipher import PUBLIC_KEY, Watermark, key_of_environment

    infos = {Path(name): audio.probe(Path(name)) for name in config.paths}
    key = key_of_environment()
    watermark = Watermark(key)
    whose = "Sesame's public key" if key == PUBLIC_KEY else "the key of CSM_WATERMARK_KEY"
    num_found = 0
    for path, info in infos.items():
        wave = audio.load(path, sample_rate_hz=info.sample_rate_hz)
        is_marked = watermark.is_in(wave, info.sample_rate_hz)
        num_found += is_marked
        print(f"{path}: {'watermark' if is_marked else 'no watermark'} of {whose}")
    return 0 if num_found == len(infos) else 1


def main(argv: Sequence[str]) -> int:
    """Command line; 0 all files hold the key, 1 some do not, 2 user error."""

    def program() -> int:
        config = parse_args(WatermarkConfig, argv, program=PROGRAM, description=DESCRIPTION)
        return detect(config)

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
