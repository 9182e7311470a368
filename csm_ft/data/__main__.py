"""Verify and describe a token file, or listen to clips of it.

python -m csm_ft.data tokens.hdf5                              verifies and describes it
python -m csm_ft.data tokens.hdf5 --decode 3 [--split val]     writes clip 3 back to a wav
python -m csm_ft.data tokens.hdf5 --decode_tokens out/         tokens of samples to wav files
python -m csm_ft.data tokens.hdf5 --listen 12                  the most suspicious clips on a page
python -m csm_ft.data tokens.hdf5 --codec_check                what the codec makes of real clips
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from csm_ft.cli import parse_args, run_program
from csm_ft.config.base import Options, option
from csm_ft.errors import ConfigError
from csm_ft.families import open_family

PROGRAM = "-m csm_ft.data"
DESCRIPTION = "Verify and describe a token file, or listen to clips of it."


class DataConfig(Options):
    """Options of `python -m csm_ft.data`."""

    path: str = option("", "Token file.", group="file", path=True, positional=True)
    decode: int = option(
        -1, "Write this clip (from 0) back to a sound file instead; -1 = describe.", group="decode"
    )
    decode_tokens: str = option(
        "",
        "Folder of .npy files, as csm_ft.generate --save_tokens writes them: turn each into a sound"
        " file, with the codec of this token file.",
        group="decode",
        path=True,
    )
    split: Literal["train", "val"] = option("train", "Split of that clip.", group="decode")
    listen: int = option(
        0,
        "Write so many of the most suspicious clips, and a page to listen to them; 0 = none.",
        group="decode",
        ge=0,
    )
    output: str = option(
        "",
        "Sound file to write (default: <split>-<N>.wav), folder of the sound files of decode_tokens"
        " (default: beside the tokens) or of the page (default: <token file>.listen, or"
        " .codec_check).",
        group="decode",
        path=True,
    )
    codec_check: bool = option(
        False,
        "Judge real clips before and after the codec (words, voice, DNSMOS), and write a page.",
        group="codec check",
    )
    codec_clips: int = option(24, "Clips to judge.", group="codec check", gt=0)
    asr: str = option("auto", "Recogniser, as for csm_ft.evaluate.", group="codec check")
    embedder: str = option("auto", "Voice embedder, likewise.", group="codec check")
    language: str = option("", "Language of the texts, as en.", group="codec check")

    @model_validator(mode="after")
    def _needs_a_file(self) -> Self:
        if not self.path:
            raise ValueError("no token file: python -m csm_ft.data tokens.hdf5")
        return self


def describe(path: Path) -> str:
    """Return hours, clips, speakers, lengths, encoder and hashes as text for people."""
    from csm_ft.data.describe import describe_store
    from csm_ft.families.stores import is_foreign, open_store

    store = open_store(path, in_memory=is_foreign(path))
    return describe_store(store, open_family(store.info.family).describe(store))


def decode(config: DataConfig) -> str:
    """Write a clip back to a sound file; return what was written."""
    from csm_ft.data import audio
    from csm_ft.families.stores import is_foreign, open_store

    path = Path(config.path)
    store = open_store(path, in_memory=is_foreign(path))
    split = store.splits[config.split]
    if config.decode >= len(split):
        raise ConfigError(
            f"--decode {config.decode}: split {split.name} of {path} has clips 0 to"
            f" {len(split) - 1}"
        )
    encoder = open_family(store.info.family).open_encoder(store, "cpu")
    wave = encoder.decode(split.arrays(config.decode))
    if wave is None:
        raise ConfigError(f"{path}: the family {store.info.family} keeps no sound to decode")
    output = Path(config.output or f"{split.name}-{config.decode}.wav")
    audio.save(output, wave, encoder.sample_rate_hz)
    seconds = wave.shape[-1] / encoder.sample_rate_hz
    return f"{output}: {seconds:.2f} s, {split.clip(config.decode).text!r}"


def decode_tokens(config: DataConfig) -> None:
    """Write a sound file for each file of tokens, and print its path."""
    from csm_ft.families.stores import open_store
    from csm_ft.generate.tokens import decode_folder

    store = open_store(Path(config.path), in_memory=False)
    encoder = open_family(store.info.family).open_encoder(store, "cpu")
    folder = Path(config.decode_tokens)
    for path in decode_folder(folder, encoder, Path(config.output or folder)):
        print(path)


def listen(config: DataConfig) -> str:
    """Write the page of the most suspicious clips; return what was written."""
    from csm_ft.families.stores import is_foreign, open_store
    from csm_ft.pretokenize.listen import write_listening_page

    path = Path(config.path)
    store = open_store(path, in_memory=is_foreign(path))
    encoder = open_family(store.info.family).open_encoder(store, "cpu")
    folder = Path(config.output or f"{path}.listen")
    if config.output and folder.exists():
        raise ConfigError(f"--output {folder} exists, and is not overwritten; name a new folder")
    return write_listening_page(store, encoder, config.listen, folder)


def check_codec(config: DataConfig) -> Path:
    """Judge real clips before and after the codec; return the page."""
    from csm_ft.config.evaluate import EvaluateConfig
    from csm_ft.evaluate import run

    asked = EvaluateConfig(
        model=config.path,
        data=config.path,
        output=config.output,
        n_prompts=config.codec_clips,
        asr=config.asr,
        embedder=config.embedder,
        language=config.language,
    )
    return run.check_codec(asked)


def main(argv: Sequence[str]) -> int:
    """Command line; 0 fine, 1 the file has problems, 2 user error."""

    def program() -> int:
        config = parse_args(DataConfig, argv, program=PROGRAM, description=DESCRIPTION)
        if config.decode >= 0:
            print(decode(config))
            return 0
        if config.decode_tokens:
            decode_tokens(config)
            return 0
        if config.listen:
            print(listen(config))
            return 0
        if config.codec_check:
            print(check_codec(config))
            return 0
        from csm_ft.families.stores import verify

        problems = verify(Path(config.path))
        for problem in problems:
            print(f"problem: {problem}", file=sys.stderr)
        if not problems:
            print(describe(Path(config.path)))
        return 1 if problems else 0

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
