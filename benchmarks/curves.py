"""Learning curves of real trials, for the simulator of searches.

python -m benchmarks.curves --sweep DIR --output curves.json    of a sweep with --pruner none
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from csm_ft import cli
from csm_ft.atomic import write_whole
from csm_ft.config.base import Options, option
from csm_ft.errors import UserError
from csm_ft.report.data import read_run, read_summary
from csm_ft.runs.folder import SweepFolder

_END = 0.999  # of the run: examples are rounded to whole steps


class CurvesConfig(Options):
    """Options of `python -m benchmarks.curves`."""

    sweep: str = option("./sweep", "Folder of the sweep.", group="curves", path=True)
    output: str = option("curves.json", "File to write.", group="curves", path=True)


@dataclass(frozen=True)
class RecordedCurve:
    """One trial that was trained to the end."""

    params: dict[str, Any]
    seed: int | None
    points: list[tuple[float, float]]  # (share of the run, objective), rising


@dataclass(frozen=True)
class Recording:
    """The trials of a sweep, without those that were stopped or failed."""

    study: str
    metric: str
    curves: list[RecordedCurve]


def record(folder: Path) -> Recording:
    """Read the curves of a sweep; UserError where none of its trials was trained to the end."""
    summary, curves = read_summary(SweepFolder(folder)), list[RecordedCurve]()
    horizon = summary.horizon_examples or 0
    for trial in summary.trials:
        if trial.state != "completed" or not horizon:
            continue
        run = read_run(folder / trial.dir, [], summary.objective_metric)
        points = [(min(1.0, v.examples / horizon), v.value) for v in run.validations if v.examples]
        if points and points[-1][0] >= _END:
            curves.append(RecordedCurve(trial.params, trial.seed, points))
    if not curves:
        raise UserError(
            f"{folder}: no trial was trained to the end; record a sweep with --pruner none"
        )
    return Recording(summary.study, summary.objective_metric, curves)


def read_recording(path: Path) -> Recording:
    """Read what `record` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    curves = [
        RecordedCurve(c["params"], c["seed"], [(share, value) for share, value in c["points"]])
        for c in data["curves"]
    ]
    return Recording(data["study"], data["metric"], curves)


def main(argv: Sequence[str]) -> int:
    """Command line; 0 recorded, 2 user error."""
    return cli.run_program(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    config = cli.parse_args(
        CurvesConfig, argv, program="-m benchmarks.curves", description=description
    )
    recording = record(Path(config.sweep))
    write_whole(Path(config.output), json.dumps(asdict(recording), indent=1) + "\n")
    print(f"{config.output}: {len(recording.curves)} curves")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
