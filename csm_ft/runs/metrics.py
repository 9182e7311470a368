"""What a run tells.

Metrics.jsonl is the truth, the console and Weights & Biases mirror it and can never stop it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.markup import escape

from csm_ft.config import TrainConfig
from csm_ft.console import console

CLOCKS = (
    "time",
    "sec",
    "data_sec",
    "compute_sec",
    "update_sec",
    "audio_sec_per_sec",
    "eta_sec",
)  # fields that differ from run to run


class Tracker:
    """Writes rows of one run; `with Tracker(...) as tracker`."""

    def __init__(self, folder: Path, config: TrainConfig, *, keep_bytes: int) -> None:
        """Open metrics.jsonl.

        Cut back to `keep_bytes` (its length at the checkpoint that the run goes on from).
        """
        self._path = folder / "metrics.jsonl"
        self._path.touch()
        os.truncate(self._path, min(keep_bytes, self._path.stat().st_size))
        self._file = self._path.open("a", encoding="utf-8")
        self._wandb = _start_wandb(folder, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._wandb is not None:
            self._mirror(lambda run: run.finish(exit_code=0 if kind is None else 1))

    @property
    def num_bytes(self) -> int:
        """Length of metrics.jsonl so far."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._path.stat().st_size

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row; `kind` is train, val or sample."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        numbers = {
            f"{kind}/{k}": v
            for k, v in values.items()
            if isinstance(v, int | float) and kind != "sample"
        }
        if numbers:
            self._mirror(lambda run: run.log(numbers, step=step))

    def audio(self, step: int, name: str, wav: Path, caption: str) -> None:
        """Log a recording to W&B, with the sentence as caption."""

        def log(run: Any) -> None:
            import wandb

            run.log({f"speech/{name}": wandb.Audio(str(wav), caption=caption)}, step=step)

        self._mirror(log)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the numbers that W&B shows beside a run's name."""
        self._mirror(lambda run: run.summary.update(dict(values)))

    def _mirror(self, action: Any) -> None:
        if self._wandb is None:
            return
        try:
            action(self._wandb)
        except Exception as error:  # the mirror must never stop the run, whatever breaks in it
            console.print(
                f"[yellow]W&B: {escape(str(error))}; going on without it (metrics.jsonl has"
                " everything)[/]"
            )
            self._wandb = None


def _start_wandb(folder: Path, config: TrainConfig) -> Any:
    """Return a W&B run, or None when it is off or cannot start.

    Offline runs are sent later with `wandb sync`.
    """
    mode = (
        config.wandb
        if config.wandb != "auto"
        else ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    )
    if mode == "off":
        return None
    try:
        import wandb

        return wandb.init(
            project=config.wandb_project,
            name=config.wandb_name or folder.name,
            group=config.wandb_group or None,
            id=f"{folder.name}-{config.fingerprint()}",
            resume="allow",
            dir=str(folder),
            mode=mode,
            config=config.model_dump(mode="json"),
            reinit="create_new" if config.wandb_reinit else "finish_previous",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=30, x_disable_stats=True
            ),
        )
    except Exception as error:  # no key, no network, a broken install: say it and train
        if mode == "online":
            console.print(
                f"[yellow]W&B is not reachable ({escape(type(error).__name__)}); recording offline,"
                " send later with `wandb sync`[/]"
            )
            return _start_wandb(folder, config.replace(wandb="offline"))
        console.print(f"[yellow]W&B did not start ({escape(str(error))}); going on without it[/]")
        return None
