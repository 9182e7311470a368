"""Write audio codes and text tokens to one HDF5 file, once.

`python pretokenize.py --train_data train.json --output tokens.hdf5`.

The same command again encodes only what is new, and goes on after a kill. See --help for every
option.
"""

import sys
from collections.abc import Sequence

from csm_ft.cli import parse_args
from csm_ft.config import load_env_files
from csm_ft.pretokenize.clips import TooManyRejectedError
from csm_ft.pretokenize.run import pretokenize
from csm_ft.pretokenize_config import PretokenizeConfig

DESCRIPTION = (
    "Write the audio codes and text tokens of clips to one HDF5 file. The same command again"
    " encodes only what is new."
)


def main(argv: Sequence[str]) -> int:
    """Command line.

    0 done, 1 too many rows rejected, 2 a mistake of the user, 130 interrupted (the same command
    goes on).
    """
    load_env_files()
    try:
        pretokenize(
            parse_args(PretokenizeConfig, argv, program="pretokenize.py", description=DESCRIPTION)
        )
    except TooManyRejectedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        if (
            type(error) is ValueError
        ):  # messages for the user are of its subclasses: this is a mistake in the program
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved part", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
