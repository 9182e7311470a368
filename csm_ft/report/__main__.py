"""`python -m csm_ft.report SWEEP_DIR` writes SWEEP_DIR/report.html again."""

import argparse
import sys
from pathlib import Path

from csm_ft.report import ReportError, build_report


def main(argv: list[str] | None = None) -> int:
    """Build the page and print where it is; 2 = the folder holds no sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m csm_ft.report",
        description="Write report.html from the files of a sweep folder.",
    )
    parser.add_argument("sweep_dir", type=Path, help="folder that sweep.py wrote (--output_dir)")
    try:
        page = build_report(parser.parse_args(argv).sweep_dir)
    except ReportError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{page} ({page.stat().st_size / 1e6:.1f} MB)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
