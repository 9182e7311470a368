"""Measure the speed of csm-ft beside its peers, in CPU-seconds of one thread.

python -m benchmarks                       all parts, in ten minutes on two slow cores
python -m benchmarks --only startup,data   some of them
python -m benchmarks --device cuda --full  CSM-1B on a GPU
"""

import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import FIGURES, Measured
from csm_ft import cli

FAILED = "it failed with"


def main(argv: Sequence[str]) -> int:
    """Command line; 0 measured, 1 a part failed, 2 user error."""
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
            try:
                found |= importlib.import_module(f"benchmarks.{part}").measure(config)
            except Exception as error:  # what other parts measured is kept
                traceback.print_exc()
                own = [name for name in FIGURES if name.startswith(f"{part}.")]
                found |= dict.fromkeys(own, f"{FAILED} {type(error).__name__}")
            console.print(f"{part}: {time.monotonic() - began:.0f} s")
    result = make_result(found, config.size, config.device)
    folder = Path(config.output)
    path = write_result(result, folder)
    print(table(result))
    console.print(f"{path}; page: {write_page(read_results(folder), folder)}", markup=False)
    return int(any(isinstance(one, str) and FAILED in one for one in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
