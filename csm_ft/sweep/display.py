"""What the sweep prints while it runs: a line per ended trial, and a bar with the time left."""

from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from csm_ft.console import clock, console
from csm_ft.sweep.records import TrialRecord

STYLE = {
    "completed": "green",
    "stopped": "dim",
    "diverged": "yellow",
    "infeasible": "yellow",
    "poison": "red",
}


class Display:
    """`with Display(...) as display`: a bar on a terminal, elsewhere lines only."""

    def __init__(
        self, metric: str, *, n_trials: int, num_workers: int, num_done: int, seed: int
    ) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("", total=n_trials, completed=num_done)
        self._metric, self._seed = metric, seed
        self._n_trials, self._num_workers, self._num_done = n_trials, num_workers, num_done
        self._trial_seconds: list[float] = []

    def __enter__(self) -> Self:
        if console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        """Print how a trial ended."""
        seconds = trial.seconds or 0.0
        self._num_done += 1
        self._trial_seconds.append(seconds)
        params = " ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial.params.items()
        )
        if trial.seed != self._seed:
            params += f" seed {trial.seed}"
        value = f"  {escape(self._metric)} {trial.value:.4f}" if trial.value is not None else ""
        star = "  [bold]best so far[/]" if best is not None and best.number == trial.number else ""
        reason = f" ({escape(trial.reason)})" if trial.reason else ""
        console.print(
            f"trial {trial.number:3d}  [{STYLE[trial.state]}]{trial.state}{reason}[/]{value} "
            f" {seconds:.0f} s  {escape(params)}{star}"
        )

    def update(self, num_running: int, best: TrialRecord | None) -> None:
        """Redraw the bar."""
        parts = [f"{num_running} running"]
        if best is not None:
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        if self._trial_seconds:
            mean_sec = sum(self._trial_seconds) / len(self._trial_seconds)
            left_sec = mean_sec * (self._n_trials - self._num_done) / self._num_workers
            parts.append(f"about {clock(left_sec)} left")
        self._bar.update(self._task, completed=self._num_done, description="  ".join(parts))
