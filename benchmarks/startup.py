"""How long programs take to start: --help, and the imports that training needs."""

import sys

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, Measured, median
from benchmarks.timing import children_clock, interleave, run_child

COMMANDS = {
    "help_train": ["train.py", "--help"],
    "help_pretokenize": ["pretokenize.py", "--help"],
    "help_sweep": ["sweep.py", "--help"],
    "help_generate": ["-m", "csm_ft.generate", "--help"],
    "import_model": ["-c", "import csm_ft.families.csm.model, csm_ft.training.step"],
    "import_torch": ["-c", "import torch"],
}


def measure(config: BenchmarkConfig) -> Found:
    """Start each program some times."""
    variants = {
        name: lambda _, words=words: run_child([sys.executable, *words])
        for name, words in COMMANDS.items()
    }
    rounds = min(config.rounds, 2)
    times = interleave(variants, rounds=rounds, warm_up=False, clock=children_clock)
    return {f"startup.{name}_ms": _milliseconds(values) for name, values in times.items()}


def _milliseconds(seconds: list[float]) -> Measured:
    return median([1000 * value for value in seconds])
