"""Metrics of a run: metrics.jsonl is the record; the console and Weights & Biases mirror it."""

import json
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from rich.markup import escape

from csm_ft.atomic import append_line, disk_errors, fsync, write_whole
from csm_ft.config.train import TrainConfig
from csm_ft.console import clock, console
from csm_ft.families.base import Term, parts_of, weighted_loss
from csm_ft.runs.folder import RunFolder

# Fields that differ from run to run.
CLOCKS = ("time", "sec", "data_sec", "compute_sec", "update_sec", "audio_sec_per_sec", "eta_sec")
_TIMES = ("micro_batches", "sec", "data_sec", "compute_sec", "update_sec")  # logged per step

# Values of WANDB_MODE, in the words of the option.
_MODES = {"disabled": "off", "offline": "offline", "dryrun": "offline"}
_MODES |= dict.fromkeys(("online", "run", "shared"), "online")

Totals = dict[str, float]  # sums since the last logged row; kept in checkpoints


def add(totals: Totals, sums: Mapping[str, float]) -> None:
    """Add the sums of one optimiser step to the totals."""
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value


def training_row(totals: Totals, terms: Sequence[Term]) -> dict[str, Any]:
    """Return the means: the loss, nats per target of each part, times per step, and rates."""
    parts, steps = parts_of(terms), totals["steps"]
    nats = {part: totals[f"nats_{part}"] for part in parts}
    counts = {part: totals[f"count_{part}"] for part in parts}
    return {
        "loss": weighted_loss(terms, nats, counts),
        **{part: nats[part] / max(1, counts[part]) for part in parts},
        "grad_norm": totals["grad_norm"] / steps,
        "padding_share": 1 - totals["positions"] / totals["padded"],
        **{name: totals[name] / steps for name in _TIMES},
        "audio_sec_per_sec": totals["audio_sec"] / totals["sec"],
    }


def training_line(
    step: int, total_steps: int, row: Mapping[str, Any], terms: Sequence[Term]
) -> str:
    """Return a training row as a line for the console."""
    parts = " ".join(f"{part} {row[part]:.3f}" for part in parts_of(terms))
    return (
        f"step {step}/{total_steps}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f}"
        f" ({parts})  lr {row['learning_rate']:.2e}  {row['audio_sec_per_sec']:.0f}x real time,"
        f" padding {row['padding_share']:.1%}, {clock(row['eta_sec'])} left"
    )


class Tracker:
    """Writes the metrics of one run; a context manager."""

    def __init__(self, folder: RunFolder, config: TrainConfig, *, keep_bytes: int) -> None:
        """Open metrics.jsonl, truncated to `keep_bytes`, its length at the last checkpoint."""
        self._path = folder.metrics
        with disk_errors(self._path):
            self._path.touch()
            os.truncate(self._path, min(keep_bytes, self._path.stat().st_size))
        self._wandb = _start_wandb(folder, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._wandb is not None:
            self._mirror(lambda run: run.finish(exit_code=0 if kind is None else 1))

    @property
    def num_bytes(self) -> int:
        """Length of metrics.jsonl, all of which is on disk when this returns."""
        with disk_errors(self._path):
            fsync(self._path)
        return self._path.stat().st_size

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row; `kind` is train, val or sample. MachineError when the disk is full."""
        append_line(self._path, json.dumps({"kind": kind, "step": step, **values}))
        numbers = {
            f"{kind}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        if numbers and kind != "sample":
            self._mirror(lambda run: run.log(numbers, step=step))

    def sample(self, step: int, stem: Path, facts: Mapping[str, Any]) -> None:
        """Log a sample to W&B: its recording with the prompt as caption, or its text."""
        wav = stem.with_suffix(".wav")
        name = facts["prompt"]

        def log(run: Any) -> None:
            import wandb

            if wav.is_file():
                sound = wandb.Audio(str(wav), caption=facts["text"])
                run.log({f"speech/{name}": sound}, step=step)
            if "answer" in facts:
                run.log({f"text/{name}": facts["answer"]}, step=step)

        self._mirror(log)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the summary values of the W&B run."""
        self._mirror(lambda run: run.summary.update(dict(values)))

    def _mirror(self, action: Any) -> None:
        if self._wandb is None:
            return
        try:
            action(self._wandb)
        except Exception as error:  # no failure of the mirror may stop the run
            console.print(
                f"[yellow]W&B: {escape(str(error))}; continuing without it (metrics.jsonl has"
                " everything)[/]"
            )
            self._wandb = None


def choose_wandb_mode(wanted: str) -> str:
    """Return online, offline or off; "auto" is online with a key, by WANDB_API_KEY or wandb login.

    Of the option and WANDB_MODE the stricter counts: who forbids an upload must not be overruled.
    """
    by_environment = _MODES.get(os.environ.get("WANDB_MODE", "").lower(), "")
    if wanted == "auto":
        has_key = bool(os.environ.get("WANDB_API_KEY")) or _is_logged_in()
        return by_environment or ("online" if has_key else "offline")
    strictest_first = ("off", "offline", "online")
    return next(mode for mode in strictest_first if mode in (wanted, by_environment))


def _is_logged_in() -> bool:
    """Tell whether `wandb login` has left a key for the server that is used."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    path = os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())
    try:
        return netrc.netrc(path).authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(folder: RunFolder, config: TrainConfig) -> Any:
    """Start a W&B run; returns None when it is off or cannot start.

    An online run that cannot start is started offline; `wandb sync` uploads it later.
    """
    mode = config.wandb  # resolved: no longer "auto"
    if mode == "off":
        return None
    try:
        return _init_wandb(folder, config, mode, is_new_part=False)
    except Exception as error:  # no key, no network, a broken install: training does not need it
        failure = error
    if mode == "online":
        console.print(
            f"[yellow]W&B is not reachable ({escape(type(failure).__name__)}); recording offline,"
            " send later with `wandb sync`[/]"
        )
        try:
            # W&B's service still holds the id of the run that it could not start.
            return _init_wandb(folder, config, "offline", is_new_part=True)
        except Exception as error:
            failure = error
    console.print(f"[yellow]W&B did not start ({escape(str(failure))}); continuing without it[/]")
    return None


def _init_wandb(folder: RunFolder, config: TrainConfig, mode: Any, *, is_new_part: bool) -> Any:
    import wandb

    # What the user's environment says counts; options fill in the rest.
    chosen = {
        "project": ("WANDB_PROJECT", config.wandb_project),
        # One name for all trials of a sweep would tell nobody which is which.
        "name": ("" if config.wandb_name else "WANDB_NAME", config.wandb_name or folder.path.name),
        "group": ("WANDB_RUN_GROUP", config.wandb_group or None),
        "dir": ("WANDB_DIR", str(folder.path)),
    }
    return wandb.init(
        **{name: value for name, (known, value) in chosen.items() if not os.environ.get(known, "")},
        id=_wandb_id(folder, config, is_offline=mode == "offline", is_new_part=is_new_part),
        resume="allow",
        mode=mode,
        config=config.model_dump(mode="json"),
        reinit="create_new" if config.wandb_reinit else "finish_previous",
        settings=wandb.Settings(silent=True, console="off", init_timeout=30, x_disable_stats=True),
    )


def _wandb_id(
    folder: RunFolder, config: TrainConfig, *, is_offline: bool, is_new_part: bool
) -> str:
    """Return the id of the W&B run: random once per run folder, and the same when it is resumed.

    Offline, each resumed part is a run of its own, since of two parts with one id a sync would keep
    one.
    """
    if folder.wandb_id.is_file():
        own, *starts = folder.wandb_id.read_text(encoding="utf-8").split()
    else:
        # Runs of older versions had an id made of their settings, and go on with it.
        has_begun = folder.metrics.is_file() and folder.metrics.stat().st_size > 0
        old = f"{folder.path.name}-{config.fingerprint()}"
        own, starts = (old, ["1"]) if has_begun else (secrets.token_hex(8), ["0"])
    num_starts = int(starts[0]) if starts else 0
    write_whole(folder.wandb_id, f"{own} {num_starts + 1}\n")
    is_new_part = is_new_part or (is_offline and num_starts > 0)
    return f"{own}-part{num_starts + 1}" if is_new_part else own
