"""`python -m csm_ft.report SWEEP_DIR` writes SWEEP_DIR/report.html again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from csm_ft.cli import parse_args, run_program
from csm_ft.errors import ConfigError
from csm_ft.report.config import ReportConfig

PROGRAM = "-m csm_ft.report"
DESCRIPTION = "Write report.html from the files of a sweep folder."


def main(argv: Sequence[str]) -> int:
    """Make the page and print its path; 2 when the folder holds no sweep."""

    def program() -> int:
        config = parse_args(ReportConfig, argv, program=PROGRAM, description=DESCRIPTION)
        if not config.sweep_dir:
            raise ConfigError("sweep_dir: name the folder that sweep.py wrote (its --output_dir)")
        from csm_ft.report.page import build_report  # here: --help needs no plotly

        page = build_report(Path(config.sweep_dir))
        print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
        return 0

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
