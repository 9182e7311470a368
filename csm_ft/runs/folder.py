"""The folders of runs and sweeps: the only place that knows the names of their files. No torch."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csm_ft.atomic import disk_errors, exclusive, recover, write_whole
from csm_ft.console import console


class RunFolder:
    """The folder of one run; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"  # resolved: nothing is left at "auto"
        self.environment = path / "env.json"
        self.metrics = path / "metrics.jsonl"
        self.extensions = path / "extensions.json"  # lengths that the run had before
        self.log = path / "log.txt"  # copy of the console
        self.samples = path / "samples"
        self.references = self.samples / "reference"
        self.judged = path / "judged"  # samples that were judged, and evaluation.json, by step
        self.judged_prompts = self.judged / "judge_prompts.json"
        self.report = path / "report.html"
        self.profile = path / "profile"  # of --profile
        self.trace = self.profile / "trace.json.gz"
        self.operations = self.profile / "operations.txt"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best"
        self.best_val_clips = self.best / "val_clips.json"
        self.val_clips = path / "val_clips.json"  # of the best, where it outlives the weights
        self.wandb_id = path / "wandb_id.txt"
        self.lock = path / ".lock"

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return self.config.is_file()

    def step_folder(self, step: int) -> Path:
        """Return the checkpoint of a step."""
        return self.checkpoints / f"step_{step:06d}"

    def step_folders(self) -> list[Path]:
        """Return the complete checkpoints to resume from, oldest first."""
        return sorted(self.checkpoints.glob("step_*"), key=lambda p: int(p.name[len("step_") :]))

    def sample_stem(self, prompt_id: str, step: int) -> Path:
        """Return the path of a sample without its suffix."""
        return self.samples / prompt_id / f"step_{step:06d}"

    def judged_folder(self, step: int) -> Path:
        """Return the samples that were judged at a step."""
        return self.judged / f"step_{step:06d}"

    def judged_results(self, step: int) -> Path:
        """Return what judges said at a step."""
        return self.judged_folder(step) / "evaluation.json"

    def read_environment(self) -> dict[str, Any]:
        """Return what the run recorded of its machine and its data."""
        return json.loads(self.environment.read_text(encoding="utf-8"))

    def write_environment(self, facts: dict[str, Any]) -> None:
        """Record the machine and the data."""
        write_whole(self.environment, json.dumps(facts, indent=2))

    def rows(self, kind: str, notes: list[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of one kind (train, val, sample, best) in metrics.jsonl.

        Lines that are not JSON objects (cut short by a kill, or still being written) are left out
        and counted in `notes`.
        """
        if not self.metrics.is_file():
            return []
        rows: list[dict[str, Any]] = []
        num_torn = 0
        for line in self.metrics.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                num_torn += bool(line.strip())
            elif row.get("kind") == kind:
                rows.append(row)
        if num_torn and notes is not None:
            name = "/".join(self.metrics.parts[-3:])
            notes.append(f"{name}: {num_torn} torn line{'s' * (num_torn > 1)} left out")
        return rows

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder for this process, and copy the console into its log.

        Raises ConfigError when another process holds the lock, and MachineError when the disk is
        full or refuses to be written.
        """
        message = (
            f"{self.path}: another process is training in this folder; wait for it, or choose"
            " another --output_dir"
        )
        with exclusive(self.lock, message), console.copy_to(self.log), disk_errors(self.path):
            recover(self.best)
            yield

    def move_aside(self) -> None:
        """Rename the folder, if it exists, to make room for a new run."""
        if not self.path.exists():
            return
        asides = (self.path.with_name(f"{self.path.name}.before-{n}") for n in itertools.count(1))
        aside = next(path for path in asides if not path.exists())
        self.path.rename(aside)
        console.print(f"the run that was in {self.path} is now in {aside}", markup=False)


class EvaluationFolder:
    """The folder that csm_ft.evaluate writes; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / "evaluation.json"
        self.page = path / "index.html"


class SweepFolder:
    """The folder of one sweep; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "study.journal"
        self.events = path / "events.jsonl"
        self.summary = path / "summary.json"
        self.table = path / "trials.csv"
        self.best_config = path / "best.yaml"
        self.best = path / "best"  # weights
        self.report = path / "report.html"
        self.votes = path / "votes.json"  # of blind listening
        self.votes_lock = path / ".votes.lock"
        self.trials = path / "trials"
        self.workers = path / "workers"  # logs
        self.artifacts = path / "artifacts"  # recordings, as Optuna's dashboard finds them
        self.wandb_id = path / "wandb_id.txt"
        self.repro = path / "repro.sh"
        self.mark = path / "cluster_mark.txt"  # by which nodes see that they share the folder
        self.process = path / "process.json"  # who runs the sweep, while it runs
        self.lock = path / ".lock"

    @property
    def baseline(self) -> RunFolder:
        """The run that measured the untrained model."""
        return RunFolder(self.path / "baseline")

    @property
    def evaluation(self) -> EvaluationFolder:
        """What csm_ft.evaluate found of the best trial."""
        return EvaluationFolder(self.path / "evaluation")

    def old_journal(self, number: int) -> Path:
        """Return the journal that was set aside as number `number`, from 1."""
        return self.journal.with_name(f"study.before-{number}.journal")

    def trial(self, number: int) -> RunFolder:
        """Return the run of a trial."""
        return RunFolder(self.trials / self.trial_name(number))

    def trial_name(self, number: int) -> str:
        """Return the name of a trial's folder."""
        return f"{number:04d}"
