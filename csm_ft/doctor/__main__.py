"""Look at a machine before anybody waits: what works, what is missing, and the next command.

python -m csm_ft.doctor                       exit 0: training can start, 1: something stops it
"""

import sys
from collections.abc import Sequence

from csm_ft import cli
from csm_ft.doctor.config import DoctorConfig


def main(argv: Sequence[str]) -> int:
    """Command line; 0 training can start, 1 something stops it, 2 user error."""
    return cli.run_program(lambda: _examine(argv))


def _examine(argv: Sequence[str]) -> int:
    config = cli.parse_args(
        DoctorConfig,
        argv,
        program="-m csm_ft.doctor",
        description=(__doc__ or "").split("\n")[0],
    )
    from csm_ft.console import console
    from csm_ft.doctor.checks import State, examine, next_command
    from csm_ft.families import family_of_file, open_family

    named = config.family
    family = open_family(family_of_file(config.data) if named == "auto" else named)
    styles = {State.OK: "green", State.NOTE: "yellow", State.STOPS: "bold red"}
    stops = False
    for finding in examine(config, family):
        style = styles[finding.state]
        console.print(f"[{style}]{finding.state:<6}[/]", f"{finding.name:<9}", end=" ")
        console.print(finding.text, markup=False, highlight=False)
        if finding.way_out:
            console.print(f"{'':17}{finding.way_out}", markup=False, highlight=False)
        stops = stops or finding.state == State.STOPS
    if not stops:
        console.print(f"next: {next_command(config)}", markup=False, highlight=False)
    return int(stops)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
