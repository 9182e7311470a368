"""Write the words of dialogues with their times: a .json for each sound, by a recogniser.

    python -m csm_ft.annotate calls/ --language en
    python -m csm_ft.annotate calls/ --words_folder words/ --asr large-v3 --shard 2/4
    python -m csm_ft.annotate calls/ --transcripts texts/

The left channel of a stereo file is SPEAKER_MAIN, the right one SPEAKER_OTHER.
"""

import sys
from collections.abc import Sequence

from csm_ft import cli
from csm_ft.annotate.config import AnnotateConfig


def main(argv: Sequence[str]) -> int:
    """Command line; 0 done, 2 a mistake of the user, 130 after Ctrl-C."""
    return cli.run_program(lambda: _annotate(argv))


def _annotate(argv: Sequence[str]) -> int:
    config = cli.parse_args(
        AnnotateConfig,
        argv,
        program="-m csm_ft.annotate",
        description=(__doc__ or "").split("\n")[0],
    )
    from csm_ft.annotate.run import annotate  # torch, for the recogniser

    annotate(config)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
