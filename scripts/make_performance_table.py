"""Write the newest figures of benchmarks/results into docs/performance.md, as a table.

`--check` says by its exit code whether the page is current, and writes nothing.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import newest, read_results  # noqa: E402
from benchmarks.table import table  # noqa: E402

PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- figures: written by scripts/make_performance_table.py -->", "<!-- end -->"


def make_page(page: str) -> str:
    """Return the page with the newest figures between its marks."""
    result = newest(read_results(ROOT / "benchmarks/results"))
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    where = f"{result.processor}, {result.cores} cores; {versions}"
    last = f"The last run was on {result.date}, of commit {result.commit}"
    figures = (
        f"{last}: {where}. Figures it left out are those of the run before.\n\n{table(result)}"
    )
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    current = make_page(page)
    if "--check" in sys.argv:
        return int(page != current)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
