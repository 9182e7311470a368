"""`python -m csm_ft.report FOLDER` writes report.html of a sweep or a run again."""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from csm_ft.cli import parse_args, run_program
from csm_ft.errors import ConfigError
from csm_ft.report.config import ReportConfig
from csm_ft.runs.folder import RunFolder, SweepFolder

PROGRAM = "-m csm_ft.report"
DESCRIPTION = "Write report.html from the files of a sweep or a run."


def main(argv: Sequence[str]) -> int:
    """Make the page and print its path; 2 when the folder holds neither."""

    def program() -> int:
        config = parse_args(ReportConfig, argv, program=PROGRAM, description=DESCRIPTION)
        if not config.sweep_dir:
            raise ConfigError(
                "sweep_dir: name the folder that sweep.py or train.py wrote (its --output_dir)"
            )
        # Here: --help needs no plotly.
        from csm_ft.report.page import build_report
        from csm_ft.report.run_page import build_run_page

        folder = Path(config.sweep_dir)
        is_run = RunFolder(folder).is_run and not SweepFolder(folder).summary.is_file()
        if config.votes:
            _merge(config.votes, SweepFolder(folder), is_run=is_run)
        if config.watch:
            from csm_ft.report.watch import watch

            watch(folder, is_run=is_run, port=config.port)
            return 0
        page = build_run_page(folder) if is_run else build_report(folder)
        print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
        return 0

    return run_program(program)


def _merge(paths: Sequence[str], folder: SweepFolder, *, is_run: bool) -> None:
    """Add files of votes to a sweep; nothing is added unless all of them are valid."""
    from csm_ft.report.data import read_summary
    from csm_ft.sweep.preference import write_preference
    from csm_ft.sweep.votes import add_votes, read_votes

    if is_run:
        raise ConfigError(f"votes: {folder.path} is the folder of one run; give that of a sweep")
    summary = read_summary(folder)
    new = list(chain.from_iterable(read_votes(Path(path), summary) for path in paths))
    num_added = add_votes(folder, summary, new)
    write_preference(folder)
    print(f"{folder.votes}: {num_added} of {len(new)} votes are new")
    if found := read_summary(folder).preference:
        print(found.text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
