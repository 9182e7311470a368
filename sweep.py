"""Search hyper-parameters: `python sweep.py --data tokens.hdf5 --n_trials 50 --n_gpus 2`.

See --help for every option.

This process owns the study and imports no torch; workers run the trials (csm_ft/sweep/).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from csm_ft.cli import run_program
from csm_ft.errors import SweepAborted
from csm_ft.sweep.request import parse

if TYPE_CHECKING:
    from csm_ft.sweep.trials import Describe


def main(argv: Sequence[str], *, trainer: str = "train", describe: "Describe | None" = None) -> int:
    """Run the command line; `trainer` and `describe` stand in for the real ones in tests.

    Returns 0 when done, 1 when nothing completed or the trainer has a bug, 2 after a mistake in the
    options, 130 when interrupted.
    """

    def program() -> int:
        request = parse(argv)
        if request.sweep.status:
            from csm_ft.sweep.status import describe_sweep

            print(describe_sweep(Path(request.sweep.status)))
            return 0
        if request.sweep.stop:
            from csm_ft.sweep.stop import stop_sweep

            print(stop_sweep(Path(request.sweep.stop)))
            return 0
        from csm_ft.sweep.run import run_sweep  # here: --help needs neither optuna nor numpy

        return run_sweep(request, trainer=trainer, describe=describe)

    try:
        return run_program(program)
    except SweepAborted as error:
        print(
            f"sweep aborted: {error}\nAfter the repair, the same command resumes the sweep.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
