"""What a sweep adds to its trials: the time between two that do nothing."""

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, median
from benchmarks.noop_trainer import TIMES
from benchmarks.timing import run_child

NUM_TRIALS = {"small": 20, "tiny": 2}


def measure(config: BenchmarkConfig) -> Found:
    """Run a sweep of one worker, and read when its trials began and ended."""
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent, "sweep")
        run_child(
            [
                *(sys.executable, "-m", "benchmarks.noop_trainer", "--data", "none"),
                *("--family", "csm", "--n_trials", str(NUM_TRIALS[config.size])),
                *("--sweep_config", "configs/sweep.yaml", "--output_dir", str(out)),
                *("--n_epochs", "3", "--wandb", "off", "--device", "cpu"),
            ]
        )
        found = sorted(json.loads(path.read_text()) for path in out.rglob(TIMES))
    gaps_ms = [1000 * (after[0] - before[1]) for before, after in pairwise(found)]
    return {"sweep.gap_ms": median(gaps_ms)}
