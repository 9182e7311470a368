"""Encode sound and text into one token file, once.

`python pretokenize.py --train_data train.json --output tokens.hdf5`.

The same command again encodes only what is new, and resumes after a kill. See --help for every
option.
"""

import sys
from collections.abc import Sequence

from csm_ft.cli import parse_args, run_program
from csm_ft.errors import NotesError, TooManyRejectedError
from csm_ft.families import named_family, open_family

DESCRIPTION = (
    "Encode the sound and text of clips into one token file. The same command again encodes only"
    " what is new."
)


def main(argv: Sequence[str]) -> int:
    """Run the command line.

    Returns 0 when done, 1 for too many rejected rows and for notes with --strict_notes, 2 for a
    mistake of the user, 130 when interrupted (the same command continues).
    """
    return run_program(lambda: _pretokenize(argv))


def _pretokenize(argv: Sequence[str]) -> int:
    family = open_family(named_family(argv))
    config = parse_args(
        family.pretokenize_config, argv, program="pretokenize.py", description=DESCRIPTION
    )
    from csm_ft.pretokenize.run import pretokenize  # torch and soundfile: not for --help

    try:
        pretokenize(family, config)
    except (TooManyRejectedError, NotesError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last saved part", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
