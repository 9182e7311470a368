"""A trainer without a model, for tests of the sweep.

`python -m tests.helpers.fake_trainer` is sweep.py with it.

Loss is a smooth function of the config and of the examples seen; a checkpoint is a JSON file.
FAKE_TRAINER (JSON in the environment) asks for faults by trial number:
{"diverge": [3], "infeasible": [4], "raise": [5], "raise_early": ["0005"], "kill": {"8": times},
"full_disk": [7], "raw_full_disk": [1], "no_base": [1], "damaged_data": [1], "weights_bytes": 1000,
"out_of_memory": {"6": micro_batch_tokens that fit}, "no_memory_to": {"6": "validation"},
"hang": {"9": "validation"} (once; or "training"), "long_validation_sec": {"9": 2},
"seed_noise": how far apart seeds are,
"until": {"4": ["dispatched", 7]} (halfway, it waits for so many events of that kind),
"slow_sec": seconds per step, "packing_window_sec": seconds, "bad_slot": {"cpu1": "import"} (or "run")}.
"""

import errno
import json
import math
import os
import random
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_ft.config.train import TrainConfig
from csm_ft.errors import ConfigError, Diverged, MachineError, StoreError, WeightsError
from csm_ft.evaluate.metrics import cost_of, is_judged
from csm_ft.runs.sizes import Sizes
from csm_ft.schedule import Clock, Duration

if TYPE_CHECKING:
    from csm_ft.sweep.trials import DataFacts

FAULTS: Mapping[str, Any] = json.loads(os.environ.get("FAKE_TRAINER", "{}"))
NUM_CLIPS = 48
CLIP_SEC = 2.0
NUM_VAL_CLIPS = 10
LONGEST_POSITIONS = 1000


def slot_is_bad(where: str) -> bool:
    """Tell whether this is a worker of a slot that fails there; its log is named for the slot."""
    log = Path("/proc/self/fd/1").resolve()
    return FAULTS.get("bad_slot", {}).get(log.stem) == where


if slot_is_bad("import"):
    sys.exit("no such device")


def write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


@dataclass(frozen=True)
class RunResult:
    status: str
    step: int
    examples: int
    best: dict[str, Any] | None
    metrics: dict[str, float]
    reason: str = ""


def describe(config: TrainConfig) -> "DataFacts":
    from csm_ft.sweep.trials import DataFacts  # here: it takes longer to import than a worker does

    path = Path(config.data)
    content = path.read_text() if path.is_file() else f"content of {path}"
    num_examples, example_sec = examples_of(config)
    return DataFacts(num_examples, content, LONGEST_POSITIONS, num_examples * example_sec)


def examples_of(config: TrainConfig) -> tuple[int, float]:
    """Return how many training examples there are, and the seconds of each: clips, or several."""
    num_clips = max(1, int(getattr(config, "instance_max_sec", 0) / CLIP_SEC))
    return NUM_CLIPS // num_clips, num_clips * CLIP_SEC


def val_loss(config: TrainConfig, share: float) -> float:
    """What a run of this config measures after `share` of it.

    Lower for rates near 1e-4, and the longer it runs.
    """
    distance = math.log10(config.learning_rate / 1e-4)
    luck = random.Random(f"{config.seed} {config.learning_rate}").gauss(0, 1)
    return (
        2.0
        + FAULTS.get("seed_noise", 0) * luck
        + 0.4 * distance**2
        + 0.02 * math.log2(config.batch_size / 8)
        + 1.5 * math.exp(-4 * share)
    )


def measure(config: TrainConfig, share: float) -> dict[str, float]:
    """All metrics of a validation: `val_error` is lowest for other rates than the loss."""
    loss = val_loss(config, share)
    error = 0.1 + abs(math.log10(config.learning_rate / 1e-6)) + math.exp(-4 * share)
    return {"val_loss": loss, "val_c0": 0.4 * loss, "val_depth": 0.6 * loss, "val_error": error}


def judge(config: TrainConfig, share: float) -> dict[str, float]:
    """Judged numbers: `wer` follows the loss, `similarity` is highest for small rates."""
    loss = val_loss(config, share)
    near = 1 / (1 + abs(math.log10(config.learning_rate / 1e-5)))
    return {
        "wer": 0.2 * (loss - 1.9),
        "cer": 0.1 * (loss - 1.9),
        "similarity": near,
        "seconds": 2.0,
    }


def judges(config: TrainConfig) -> bool:
    return bool(Duration.parse(config.judge_every).amount)


def clips(loss: float) -> dict[str, tuple[float, int]]:
    """Validation clips whose sum of nats over sum of frames is `loss`."""
    frames = [20 + i for i in range(NUM_VAL_CLIPS)]
    wiggle = [0.01 * math.sin(5 * i + loss) for i in range(NUM_VAL_CLIPS)]
    nats = [n * (loss + w) for n, w in zip(frames, wiggle, strict=True)]
    nats[0] += loss * sum(frames) - sum(nats)
    return {f"clip{i}": (nats[i], frames[i]) for i in range(NUM_VAL_CLIPS)}


def measure_sizes(config: TrainConfig) -> Sizes:
    return Sizes(FAULTS.get("weights_bytes", 1000), 2000, 3000)


def run_baseline(config: TrainConfig, reporter: Any = None) -> RunResult:
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _spend_time(folder, reporter, "validation")
    _fault(folder, "baseline")
    write_whole(folder / "config.yaml", config.to_yaml())
    metrics = measure(config.replace(learning_rate=1e-4), 0.0)
    facts: dict[str, Any] = {}
    if judges(config):
        metrics |= judge(config.replace(learning_rate=1e-4), 0.0)
        facts = {"judges": {"words": "fake 1", "voice": "fake 2"}, "judges_missing": ["no DNSMOS"]}
    facts["sizes"] = asdict(measure_sizes(config))
    write_whole(folder / "env.json", json.dumps(facts))
    row = {"kind": "val", "step": 0, "examples": 0, "epoch": 0.0, **metrics}
    write_whole(folder / "metrics.jsonl", json.dumps(row) + "\n")
    return RunResult("completed", 0, 0, None, metrics)


def make_lanes() -> list[str]:
    return []


def run(
    config: TrainConfig,
    reporter: Any = None,
    *,
    should_pause: Callable[[], bool] = lambda: False,
    lanes: list[str] | None = None,
) -> RunResult:
    folder = Path(config.output_dir)
    checkpoint = folder / "checkpoints" / "step" / "state.json"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if slot_is_bad("run") or folder.name in FAULTS.get("raise_early", []):
        raise RuntimeError("CUDA error: unknown error")
    write_whole(folder / "config.yaml", config.to_yaml())
    state: dict[str, Any] = {
        "step": 0,
        "examples": 0,
        "best": None,
        "metrics": {},
        "stopped": False,
        "rows": [],
    }
    is_resumed = checkpoint.is_file()
    if is_resumed:
        state = json.loads(checkpoint.read_text())
    per_step = config.batch_size * config.grad_acc_steps
    num_examples, example_sec = examples_of(config)
    total = int(config.n_epochs * num_examples)
    total_steps = math.ceil(total / per_step)
    clock = Clock(total_steps, total, num_examples, example_sec)
    every = {
        name: Duration.parse(getattr(config, f"{name}_every")) for name in ("val", "judge", "save")
    }
    is_timed_by_audio = every["val"].unit == "audio"
    best_from = clock.steps(Duration.parse(config.best_from))

    def distance() -> int:
        return round(state["examples"] * example_sec) if is_timed_by_audio else state["examples"]

    before = state["examples"]
    while True:
        is_last = state["step"] == total_steps or state["stopped"]
        seen = {
            "step": state["step"],
            "examples": state["examples"],
            "examples_before": before,
        }
        due = {name: is_last or clock.is_due(each, **seen) for name, each in every.items()}
        if not is_resumed:
            hears = judges(config) and due["judge"]
            if (due["val"] or hears) and state["step"]:
                share, is_candidate = state["examples"] / total, state["step"] >= best_from
                state["metrics"] = measure(config, share)
                state["metrics"] |= judge(config, share) if hears else {}
                _spend_time(folder, reporter, "validation")
                _validate(config, folder, state, is_candidate=is_candidate)
                if reporter is not None and not reporter.validated(distance(), state["metrics"]):
                    state["stopped"] = is_last = True
            limit = config.micro_batch_tokens
            _fault(folder, folder.name, state["step"], total_steps, limit)
            if due["save"] or is_last or should_pause():
                # Rows before the checkpoint, as in a run: a kill in between does them again.
                write_whole(
                    folder / "metrics.jsonl",
                    "".join(json.dumps(row) + "\n" for row in state["rows"]),
                )
                write_whole(checkpoint, json.dumps(state))
            if should_pause() and not is_last:
                return _result("interrupted", state)
        if is_last:
            return _result("stopped" if state["stopped"] else "completed", state)
        is_resumed, before = False, state["examples"]
        time.sleep(FAULTS.get("slow_sec", 0))
        if state["step"] >= total_steps // 2:
            _wait_for_events(folder)
            _spend_time(folder, reporter, "training")
        state["step"] += 1
        state["examples"] = min(total, state["step"] * per_step)
        _log_step(folder, state["step"])
        if reporter is not None:
            reporter.progress(state["step"], distance())


def _result(status: str, state: dict[str, Any]) -> RunResult:
    return RunResult(status, state["step"], state["examples"], state["best"], state["metrics"])


def _validate(
    config: TrainConfig, folder: Path, state: dict[str, Any], *, is_candidate: bool
) -> None:
    metrics = state["metrics"]
    num_examples, example_sec = examples_of(config)
    where = {
        "step": state["step"],
        "examples": state["examples"],
        "epoch": state["examples"] / num_examples,
    }
    if Duration.parse(config.val_every).unit == "audio":
        where["audio_sec"] = state["examples"] * example_sec
    state["rows"] = [row for row in state["rows"] if row["step"] != state["step"]]
    state["rows"].append({"kind": "val", **where, **metrics})
    objective, best = config.best_by, state["best"]
    is_candidate = is_candidate and objective in metrics
    is_candidate = is_candidate and (not config.judge_best or is_judged(metrics))
    if is_candidate and (best is None or cost_of(objective, metrics) < cost_of(objective, best)):
        state["best"] = {**metrics, **where}
        best = folder / "checkpoints" / "best"
        shutil.rmtree(best, ignore_errors=True)
        best.mkdir()
        write_whole(
            best / "model.safetensors",
            f"weights of {config.learning_rate!r} after {state['step']} steps",
        )
        write_whole(best / "state.json", json.dumps(state))
        write_whole(best / "val_clips.json", json.dumps(clips(metrics["val_loss"])))


def _spend_time(folder: Path, reporter: Any, doing: str) -> None:
    """Validate for as long as asked, with signs of life, or hang without any."""
    name = folder.name.lstrip("0") or "0"
    mark = folder / f"hung in {doing}"
    if reporter is not None and doing != "training":
        reporter.alive(doing)
    if FAULTS.get("no_memory_to", {}).get(name) == doing:
        raise _torch().OutOfMemoryError("CUDA out of memory")
    if FAULTS.get("hang", {}).get(name) == doing and not mark.exists():
        mark.touch()
        time.sleep(600)
    end_sec = time.monotonic() + FAULTS.get("long_validation_sec", {}).get(name, 0)
    while doing == "validation" and time.monotonic() < end_sec:
        time.sleep(0.1)
        reporter.alive()


def _wait_for_events(folder: Path) -> None:
    kind, count = FAULTS.get("until", {}).get(folder.name.lstrip("0") or "0", ("", 0))
    events = folder.parent.parent / "events.jsonl"
    while count and events.read_text().count(f'"event": "{kind}"') < count:
        time.sleep(0.02)


def _log_step(folder: Path, step: int) -> None:
    """Count every step ever done, also those that a kill made to be done again."""
    with (folder / "steps.log").open("a") as file:
        file.write(f"{step}\n")


def _fault(
    folder: Path, name: str, step: int = 1, total_steps: int = 2, micro_batch_tokens: int = 0
) -> None:
    number = int(name) if name.isdigit() else name
    if number in FAULTS.get("raise", []):
        raise KeyError("a bug in the trainer")
    if number in FAULTS.get("infeasible", []):
        raise ConfigError("backbone: 33 heads do not go into 2048")
    fits = FAULTS.get("out_of_memory", {}).get(str(number))
    if fits and step >= total_steps // 2 and micro_batch_tokens > fits:
        raise _torch().OutOfMemoryError("CUDA out of memory")
    if number in FAULTS.get("full_disk", []):
        raise MachineError("checkpoints could not be written: No space left on device")
    if number in FAULTS.get("raw_full_disk", []):
        raise OSError(errno.ENOSPC, "No space left on device")
    if number in FAULTS.get("no_base", []):
        raise WeightsError("base: no such file or folder")
    if number in FAULTS.get("damaged_data", []):
        raise StoreError("d: is not a readable token file")
    if number in FAULTS.get("diverge", []) and step >= total_steps // 2:
        raise Diverged(step, "loss")
    if number in FAULTS.get("diverge_at_once", []):
        raise Diverged(1, "loss")
    if str(number) in FAULTS.get("kill", {}) and step >= total_steps // 2:
        count = folder / "kills"
        kills = int(count.read_text()) if count.is_file() else 0
        if kills < FAULTS["kill"][str(number)]:
            write_whole(count, str(kills + 1))
            os.kill(os.getpid(), signal.SIGKILL)


def _torch() -> Any:
    """Stand in for torch, which would take seconds to import."""
    torch: Any = types.ModuleType("torch")
    torch.OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    sys.modules["torch"] = torch
    return torch


class NoPage:
    """The report has its own tests and takes seconds."""

    def __init__(self, out: Path) -> None: ...
    def refresh(self) -> None: ...
    def finish(self) -> None: ...


def main(argv: Sequence[str]) -> int:
    """Run sweep.py with this trainer; FAKE_TRAINER is read from the environment as it is now."""
    from unittest.mock import patch

    import sweep
    from csm_ft.sweep import packing, study
    from csm_ft.sweep import run as sweep_run

    faults = json.loads(os.environ.get("FAKE_TRAINER", "{}"))
    window_sec = faults.get("packing_window_sec", packing.WINDOW_SEC)
    with ExitStack() as patches:
        patches.enter_context(patch.object(packing, "WINDOW_SEC", window_sec))
        # Importance has its own tests, and imports scikit-learn.
        patches.enter_context(patch.object(study, "explain", lambda _trials, _plan: ("", {})))
        if "page" not in faults:
            patches.enter_context(patch.object(sweep_run, "ReportProcess", NoPage))
        return sweep.main(argv, trainer="tests.helpers.fake_trainer", describe=describe)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
