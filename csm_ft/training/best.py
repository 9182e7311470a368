"""The end of a run that validated on a share of the targets: its best weights, on all of them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from csm_ft.console import console
from csm_ft.errors import Diverged
from csm_ft.evaluate.metrics import ERROR, ESTIMATE
from csm_ft.evaluate.validation import validate, validate_canary
from csm_ft.runs.checkpoint import TrainState, load_best, update_best
from csm_ft.sweep.messages import Doing
from csm_ft.training.setup import Setup


def measure_best(setup: Setup, alive: Callable[[Doing], None]) -> dict[str, Any] | None:
    """Return the facts of the best validation, its loss as that of all targets; collective.

    The weights are those that were saved, and replace the model's. What is found is kept beside
    them, so that it is measured once. The estimate that the run went by becomes val_loss_estimate.
    Raises Diverged for a loss that is not finite.
    """
    best = setup.state.best
    if best is None or setup.family.scored_share(setup.val, setup.config) == 1:
        return best
    saved: Mapping[str, Any] = setup.ranks.tell(
        lambda: TrainState.read(setup.folder.best).best or {}
    )
    if ESTIMATE not in saved:
        alive("validation")
        saved = _measure(setup, best)
    names = [name for name in saved if name.startswith("val_")]
    found = {**{name: saved[name] for name in names}, "best_step": saved["step"]}
    setup.tracker.row("best", setup.state.step, {**found, "examples": saved["examples"]})
    console.print(
        f"best weights, step {saved['step']}: val_loss {saved['val_loss']:.4f} on all targets"
        f" (estimated: {saved[ESTIMATE]:.4f}, standard error {saved[ERROR]:.4f})"
    )
    return dict(saved)


def last_metrics(state: TrainState, best: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics of the last validation; as measured on all targets if it was the best."""
    if best is None or best["step"] != state.step:
        return state.metrics
    return {name: best[name] for name in state.metrics}


def _measure(setup: Setup, best: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the best weights on all targets; return what was known of them, and what is now."""
    config, family, ranks, model = setup.config, setup.family, setup.ranks, setup.trained.model
    load_best(setup.folder, model, ranks)
    result = validate(model, family, setup.val, config, ranks, all_targets=True)
    if not math.isfinite(result.loss):
        raise Diverged(setup.state.step, "validation loss")
    canary = {}
    if setup.canary:
        canary = validate_canary(model, family, setup.canary, config, ranks, all_targets=True)
    known = {**best, **result.metrics, **canary, ESTIMATE: best["val_loss"]}
    if ranks.is_writer:
        update_best(setup.folder, known, result.clips)
    return known
