"""Measure the speed of csm-ft beside its peers, in CPU-seconds of one thread.

python -m benchmarks                       all parts, in under 10 minutes on two cores
python -m benchmarks --only startup,data   some of them
"""

import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Measured
from csm_ft import cli


def main(argv: Sequence[str]) -> int:
    """Command line; 0 measured, 2 user error."""
    return cli.run_program(lambda: _measure(argv))


def _measure(argv: Sequence[str]) -> int:
    config = cli.parse_args(
        BenchmarkConfig,
        argv,
        program="-m benchmarks",
        description=(__doc__ or "").split("\n")[0],
    )
    # Before torch is imported, here and in the programs that are started.
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.page import write_page
    from benchmarks.results import make_result, read_results, write_result
    from benchmarks.table import table
    from benchmarks.timing import one_thread
    from csm_ft.console import console

    found: dict[str, Measured | str] = {}
    with one_thread():
        for part in config.parts:
            began = time.monotonic()
            found |= importlib.import_module(f"benchmarks.{part}").measure(config)
            console.print(f"{part}: {time.monotonic() - began:.0f} s")
    result = make_result(found, config.size)
    folder = Path(config.output)
    path = write_result(result, folder)
    print(table(result))
    console.print(f"{path}; page: {write_page(read_results(folder), folder)}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
