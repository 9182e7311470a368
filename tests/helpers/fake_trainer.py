"""A trainer without a model, for tests of the sweep.

`python -m tests.helpers.fake_trainer` is sweep.py with it.

Loss is a smooth function of the config and of the examples seen; a checkpoint is a JSON file.
FAKE_TRAINER (JSON in the environment) asks for faults by trial number: {"diverge": [3],
"infeasible": [4], "raise": [5], "kill": {"6": times}, "slow_sec": seconds per step}.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft.config import ConfigError, TrainConfig
from csm_ft.schedule import Clock, Duration
from csm_ft.sweep.trials import DataFacts

NUM_CLIPS = 48
NUM_VAL_CLIPS = 10


def write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


class Diverged(RuntimeError):
    pass


@dataclass(frozen=True)
class RunResult:
    status: str
    step: int
    examples: int
    best: dict[str, Any] | None
    final_val_loss: float | None


def describe(config: TrainConfig) -> DataFacts:
    return DataFacts(NUM_CLIPS, f"content of {config.data}")


def val_loss(config: TrainConfig, share: float) -> float:
    """What a run of this config measures after `share` of it.

    Lower for rates near 1e-4, and the longer it runs.
    """
    distance = math.log10(config.learning_rate / 1e-4)
    return (
        2.0
        + 0.4 * distance**2
        + 0.02 * math.log2(config.batch_size / 8)
        + 1.5 * math.exp(-4 * share)
    )


def clips(loss: float) -> dict[str, tuple[float, int]]:
    """Validation clips whose sum of nats over sum of frames is `loss`."""
    frames = [20 + i for i in range(NUM_VAL_CLIPS)]
    wiggle = [0.01 * math.sin(5 * i + loss) for i in range(NUM_VAL_CLIPS)]
    nats = [n * (loss + w) for n, w in zip(frames, wiggle, strict=True)]
    nats[0] += loss * sum(frames) - sum(nats)
    return {f"clip{i}": (nats[i], frames[i]) for i in range(NUM_VAL_CLIPS)}


def run_baseline(config: TrainConfig) -> RunResult:
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _fault(folder, "baseline")
    write_whole(folder / "config.yaml", config.to_yaml())
    loss = val_loss(config.replace(learning_rate=1e-4), 0.0)
    write_whole(
        folder / "metrics.jsonl",
        json.dumps({"kind": "val", "step": 0, "examples": 0, "epoch": 0.0, "val_loss": loss})
        + "\n",
    )
    return RunResult("completed", 0, 0, None, loss)


def run(
    config: TrainConfig, reporter: Any = None, *, should_pause: Callable[[], bool] = lambda: False
) -> RunResult:
    folder = Path(config.output_dir)
    checkpoint = folder / "checkpoints" / "step" / "state.json"
    faults = json.loads(os.environ.get("FAKE_TRAINER", "{}"))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.yaml", config.to_yaml())
    state: dict[str, Any] = {
        "step": 0,
        "examples": 0,
        "best": None,
        "final": None,
        "stopped": False,
        "rows": [],
    }
    is_resumed = checkpoint.is_file()
    if is_resumed:
        state = json.loads(checkpoint.read_text())
    per_step = config.batch_size * config.grad_acc_steps
    total = int(config.n_epochs * NUM_CLIPS)
    total_steps = math.ceil(total / per_step)
    clock = Clock(total_steps, total, NUM_CLIPS)
    every = {name: Duration.parse(getattr(config, f"{name}_every")) for name in ("val", "save")}
    best_from = clock.steps(Duration.parse(config.best_from))
    before = state["examples"]
    while True:
        is_last = state["step"] == total_steps or state["stopped"]
        due = {
            n: (
                is_last
                or clock.is_due(
                    d, step=state["step"], examples=state["examples"], examples_before=before
                )
            )
            for n, d in every.items()
        }
        if not is_resumed:
            if due["val"] and state["step"]:
                _validate(
                    config,
                    folder,
                    state,
                    state["examples"] / total,
                    is_candidate=state["step"] >= best_from,
                )
                if reporter is not None and not reporter.validated(
                    state["examples"], {"val_loss": state["final"]}
                ):
                    state["stopped"] = is_last = True
            _fault(folder, folder.name, state["step"], total_steps)
            if due["save"] or is_last or should_pause():
                write_whole(checkpoint, json.dumps(state))
                write_whole(
                    folder / "metrics.jsonl",
                    "".join(json.dumps(row) + "\n" for row in state["rows"]),
                )
            if should_pause() and not is_last:
                return RunResult(
                    "interrupted", state["step"], state["examples"], state["best"], state["final"]
                )
        if is_last:
            return RunResult(
                "stopped" if state["stopped"] else "completed",
                state["step"],
                state["examples"],
                state["best"],
                state["final"],
            )
        is_resumed, before = False, state["examples"]
        time.sleep(faults.get("slow_sec", 0))
        state["step"] += 1
        state["examples"] = min(total, state["step"] * per_step)
        _log_step(folder, state["step"])
        if reporter is not None:
            reporter.progress(state["step"], state["examples"])


def _validate(
    config: TrainConfig, folder: Path, state: dict[str, Any], share: float, *, is_candidate: bool
) -> None:
    loss = val_loss(config, share)
    where = {
        "step": state["step"],
        "examples": state["examples"],
        "epoch": state["examples"] / NUM_CLIPS,
    }
    state["rows"] = [row for row in state["rows"] if row["step"] != state["step"]] + [
        {"kind": "val", **where, "val_loss": loss}
    ]
    state["final"] = loss
    if is_candidate and (state["best"] is None or loss < state["best"]["val_loss"]):
        state["best"] = {"val_loss": loss, **where}
        best = folder / "checkpoints" / "best"
        shutil.rmtree(best, ignore_errors=True)
        best.mkdir()
        write_whole(
            best / "model.safetensors",
            f"weights of {config.learning_rate!r} after {state['step']} steps",
        )
        write_whole(best / "state.json", json.dumps(state))
        write_whole(best / "val_clips.json", json.dumps(clips(loss)))


def _log_step(folder: Path, step: int) -> None:
    """Count every step ever done, also those that a kill made to be done again."""
    with (folder / "steps.log").open("a") as file:
        file.write(f"{step}\n")


def _fault(folder: Path, name: str, step: int = 1, total_steps: int = 2) -> None:
    faults: Mapping[str, Any] = json.loads(os.environ.get("FAKE_TRAINER", "{}"))
    number = int(name) if name.isdigit() else name
    if number in faults.get("raise", []):
        raise KeyError("a bug in the trainer")
    if number in faults.get("infeasible", []):
        raise ConfigError("backbone: 33 heads do not go into 2048")
    if number in faults.get("diverge", []) and step >= total_steps // 2:
        raise Diverged(f"step {step}: the loss is not finite")
    if number in faults.get("diverge_at_once", []):
        raise Diverged("step 1: the loss is not finite")
    if str(number) in faults.get("kill", {}) and step >= total_steps // 2:
        count = folder / "kills"
        kills = int(count.read_text()) if count.is_file() else 0
        if kills < faults["kill"][str(number)]:
            write_whole(count, str(kills + 1))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import sweep

    class NoPage:
        """The report has its own tests and takes seconds."""

        def __init__(self, out: Path) -> None: ...
        def refresh(self) -> None: ...
        def finish(self) -> None: ...

    if "page" not in os.environ.get("FAKE_TRAINER", ""):
        sweep.Page = NoPage
    sys.exit(sweep.main(sys.argv[1:], trainer="tests.helpers.fake_trainer", describe=describe))
