"""A trainer that trains nothing, to measure what a sweep adds to its trials."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csm_ft.atomic import write_whole
from csm_ft.config.train import TrainConfig
from csm_ft.runs.folder import RunFolder
from csm_ft.sweep.trials import DataFacts
from train import RunResult

NUM_CLIPS = 48
TIMES = "times.json"  # when a trial began and ended


def describe(config: TrainConfig) -> DataFacts:
    """Return the facts of a token file that does not exist."""
    return DataFacts(NUM_CLIPS, "none")


def run_baseline(config: TrainConfig, reporter: Any = None) -> RunResult:
    """Measure nothing."""
    return run(config)


def run(
    config: TrainConfig,
    reporter: Any = None,
    *,
    should_pause: Callable[[], bool] = lambda: False,
    lanes: None = None,
) -> RunResult:
    """Report one validation, at the end, and write the files that a sweep reads."""
    began = time.time()
    examples = int(config.n_epochs * NUM_CLIPS)
    loss = 2.0 + abs(config.learning_rate - 1e-4)
    metrics = {"val_loss": loss, "val_c0": loss / 2, "val_depth": loss / 2}
    folder = RunFolder(Path(config.output_dir))
    folder.best.mkdir(parents=True, exist_ok=True)
    write_whole(folder.config, config.to_yaml())
    folder.write_environment({})
    row = {"kind": "val", "step": 1, "examples": examples, "epoch": config.n_epochs, **metrics}
    write_whole(folder.metrics, json.dumps(row) + "\n")
    clips = {f"clip{i}": (loss * 10, 10) for i in range(4)}
    write_whole(folder.best_val_clips, json.dumps(clips))
    if reporter is not None:
        reporter.validated(examples, metrics)
    best = {**metrics, "step": 1, "examples": examples, "epoch": config.n_epochs}
    write_whole(folder.path / TIMES, json.dumps([began, time.time()]))
    return RunResult("completed", 1, examples, best, metrics)


if __name__ == "__main__":
    import sys

    import sweep

    sys.exit(sweep.main(sys.argv[1:], trainer="benchmarks.noop_trainer", describe=describe))
