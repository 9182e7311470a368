"""The end of a run that validated on a share of the targets: its best weights, on all of them."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from csm_ft.atomic import write_whole
from csm_ft.console import console
from csm_ft.errors import Diverged
from csm_ft.evaluate.metrics import ERROR, ESTIMATE
from csm_ft.evaluate.validation import validate, validate_canary
from csm_ft.runs.checkpoint import TrainState, load_best
from csm_ft.sweep.messages import Doing
from csm_ft.training.setup import Setup


def measure_best(setup: Setup, alive: Callable[[Doing], None]) -> dict[str, Any] | None:
    """Return the facts of the best validation, its loss as that of all targets; collective.

    The weights are those that were saved, and replace the model's. What is found is kept beside
    them, so that it is measured once. The estimate that the run went by becomes val_loss_estimate.
    Raises Diverged for a loss that is not finite.
    """
    best, config = setup.state.best, setup.config
    if best is None or setup.family.scored_share(config) == 1:
        return best
    path = setup.folder.best_measured
    found: dict[str, float] = setup.ranks.tell(
        lambda: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    )
    if not found:
        alive("validation")
        found = _measure(setup, {ESTIMATE: best["val_loss"], ERROR: best[ERROR]})
        if setup.ranks.is_writer:
            write_whole(path, json.dumps(found))  # last: it says that all is there
    row = {**found, "best_step": best["step"], "examples": best["examples"]}
    setup.tracker.row("best", setup.state.step, row)
    console.print(
        f"best weights, step {best['step']}: val_loss {found['val_loss']:.4f} on all targets"
        f" (estimated: {found[ESTIMATE]:.4f}, standard error {found[ERROR]:.4f})"
    )
    return {**best, **found}


def last_metrics(state: TrainState, best: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics of the last validation; as measured on all targets if it was the best."""
    if best is None or best["step"] != state.step:
        return state.metrics
    return {name: best[name] for name in state.metrics}


def _measure(setup: Setup, estimated: dict[str, float]) -> dict[str, float]:
    """Measure the best weights on all targets, and keep each example's share of the loss."""
    config, family, ranks, model = setup.config, setup.family, setup.ranks, setup.trained.model
    load_best(setup.folder, model, ranks)
    result = validate(model, family, setup.val, config, ranks, all_targets=True)
    if not math.isfinite(result.loss):
        raise Diverged(setup.state.step, "validation loss")
    found = result.metrics
    if setup.canary:
        found |= validate_canary(model, family, setup.canary, config, ranks, all_targets=True)
    if ranks.is_writer:
        write_whole(setup.folder.best_val_clips, json.dumps(result.clips))
    return {**found, **estimated}
