"""Conditions on the numbers of a trial: `cer<=0.1`. A trial that violates one is never the best."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from csm_ft.config.train import TrainConfig
from csm_ft.errors import ConfigError, SweepError
from csm_ft.evaluate.metrics import METRICS, VALIDATION, check_judged
from csm_ft.schedule import Duration

_WRITTEN = re.compile(r"\s*(?P<metric>[A-Za-z]\w*)\s*(?P<sign><=|>=)\s*(?P<bound>\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A bound on one metric."""

    metric: str
    sign: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `cer<=0.1`; ValueError, which says how one is written, for anything else."""
        match = _WRITTEN.fullmatch(text)
        try:
            bound = float(match["bound"]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or not math.isfinite(bound):
            raise ValueError(
                f"{text!r} is no constraint: write METRIC<=NUMBER or METRIC>=NUMBER, such as"
                " cer<=0.1"
            )
        return cls(match["metric"], "<=" if match["sign"] == "<=" else ">=", bound)

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:.15g}"

    def violation(self, metrics: Mapping[str, float | None]) -> float:
        """Return by how much it is violated, in units of the bound; 0 or less = it is met.

        A number that was not measured violates it by 1.
        """
        value = metrics.get(self.metric)
        if value is None:
            return 1.0
        excess = value - self.bound if self.sign == "<=" else self.bound - value
        return excess / (abs(self.bound) or 1.0)

    def describe(self, metrics: Mapping[str, float | None]) -> str:
        """Say how it is violated."""
        value = metrics.get(self.metric)
        found = "was not measured" if value is None else f"is {value:.4g}"
        return f"{self.metric} {found}, {self} is asked for"


def parse_all(texts: Sequence[str]) -> list[Constraint]:
    """Read constraints, each of which may be a list with commas; ValueError."""
    parts = [part for text in texts for part in text.split(",")]
    return [Constraint.parse(part) for part in parts if part.strip()]


def violated(
    constraints: Iterable[Constraint], metrics: Mapping[str, float | None]
) -> list[Constraint]:
    """Return the constraints that the numbers of a trial violate."""
    return [one for one in constraints if one.violation(metrics) > 0]


def check_request(constraints: Sequence[Constraint], base: TrainConfig) -> None:
    """Check what is known before anything runs. ConfigError.

    Trials must be judged at equal numbers of examples, judged numbers need judges, and a name that
    is neither one of them nor a metric of validation is unknown.
    """
    every = Duration.parse(base.judge_every)
    if every.amount and every.unit == "steps":
        raise ConfigError(
            f"judge_every {base.judge_every} counts optimiser steps, which are other numbers of"
            " examples in trials of another batch size; write a share of the run, such as 1/3"
        )
    for one in constraints:
        check_judged(one.metric, what=f"constraint {one}", judge_every=base.judge_every)
        if one.metric not in METRICS and not one.metric.startswith(VALIDATION):
            raise ConfigError(_unknown(one, ["val_loss", *METRICS]))


def check_measured(
    constraints: Sequence[Constraint],
    metrics: Mapping[str, float | None],
    environment: Mapping[str, Any],
) -> None:
    """Check that trials will have the numbers, once the untrained model was measured. SweepError.

    A judged number that the untrained model lacks (silence has no voice) may come with training,
    where its judge is there, by what the run recorded of its `environment`.
    """
    judges = environment.get("judges", {})
    known = [
        name
        for name, metric in METRICS.items()
        if name in metrics or (is_there(metric.judge, judges) and "judges" in environment)
    ]
    known = [*(name for name in metrics if name not in METRICS), *known]
    for one in constraints:
        if one.metric in known:
            continue
        missing = environment.get("judges_missing", [])
        reason = f"; {'; '.join(missing)}" if one.metric in METRICS and missing else ""
        raise SweepError(_unknown(one, known) + reason)


def is_there(judge: str, judges: Mapping[str, str]) -> bool:
    """Tell whether a judge is there, "" being none."""
    return not judge or judge in judges


def _unknown(one: Constraint, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(one.metric, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"constraint {one}: {one.metric} is not measured{hint} Known: {', '.join(known)}"
