"""Verify and describe a token file, or decode a clip of it.

python -m csm_ft.data tokens.hdf5                                        verifies and describes it
python -m csm_ft.data tokens.hdf5 --decode 3 [--split val] [--output x.wav]   writes clip 3 back to
a wav
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from csm_ft.data.split import SPLITS, StoreError
from csm_ft.data.token_file import describe, is_public_layout, open_store, verify


def main(argv: Sequence[str]) -> int:
    """Command line; 0 fine, 1 the file has problems, 2 a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m csm_ft.data",
        description="Verify and describe a token file, or decode a clip of it.",
    )
    parser.add_argument("path", type=Path, help="token file")
    parser.add_argument(
        "--decode", type=int, metavar="N", help="write clip N (from 0) back to a wav instead"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="split of that clip (default: train)"
    )
    parser.add_argument("--output", type=Path, help="the wav (default: <split>-<N>.wav)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.decode is not None:
            return _decode(arguments.path, arguments.split, arguments.decode, arguments.output)
        problems = verify(arguments.path)
        if not problems:
            print(describe(arguments.path))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _decode(path: Path, split: str, index: int, output: Path | None) -> int:
    from csm_ft.data import audio
    from csm_ft import codecs

    store = open_store(path, in_memory=is_public_layout(path))
    if not 0 <= index < len(store.splits[split]):
        raise StoreError(
            f"--decode {index}: split {split} of {path} has clips 0 to"
            f" {len(store.splits[split]) - 1}"
        )
    output = output or Path(f"{split}-{index}.wav")
    wave = codecs.from_store(store, "cpu").decode(store.splits[split].codes(index))
    audio.save(output, wave, store.info.sample_rate_hz)
    print(
        f"{output}: {len(wave) / store.info.sample_rate_hz:.2f} s,"
        f" {store.splits[split].clip(index).text!r}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
