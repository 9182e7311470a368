"""Where to look next: one sampler per trial, so that a restarted study draws what it would have.

A restarted seeded sampler would repeat its draws; one that is seeded by study and trial cannot.
"""

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from csm_ft.errors import ConfigError
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.space import MAX_SETTINGS, Space, num_values

if TYPE_CHECKING:
    from cmaes import CMA

_SIGMA = 1 / 6  # of each range: where CMA-ES looks first, around the default


def make_sampler(sweep: SweepConfig, space: Space, number: int) -> BaseSampler:
    """Return the sampler of one trial; that of a grid only stands in, as every point is fixed."""
    seed = sweep.seed * 1_000_003 + number
    match sweep.sampler:
        case "tpe":
            return TPESampler(
                seed=seed,
                n_startup_trials=sweep.startup_trials,
                multivariate=True,
                constant_liar=True,
            )
        case "gp":  # imports torch
            return GPSampler(seed=seed, n_startup_trials=sweep.startup_trials)
        case "cmaes":
            return _CmaEs(space, seed)
        case "qmc":
            return _Sobol(space, sweep.seed, number)
        case "random" | "grid":
            return RandomSampler(seed=seed)


def check_sampler(sweep: SweepConfig, space: Space) -> str:
    """Return a warning, or ""; ConfigError where the sampler cannot search the space."""
    if sweep.sampler == "grid":
        _check_grid(space)
    if sweep.sampler == "cmaes":
        _check_cmaes(space)
    if sweep.sampler in ("gp", "cmaes") and sweep.pruner != "none":
        return (
            f"sampler {sweep.sampler} learns only from trials that are trained to the end, and"
            f" {sweep.pruner} stops most of them; --pruner none gives it more to learn from"
        )
    return ""


def _check_grid(space: Space) -> None:
    for parameter in space.parameters:
        if num_values(parameter.distribution) == math.inf:
            raise ConfigError(
                f"sampler grid: {parameter.name} has no finite number of values; give its row a"
                " `step`, or type: categorical (values), or choose --sampler qmc, which spreads"
                " trials evenly over any range"
            )
    if space.settings(MAX_SETTINGS) is None:
        raise ConfigError(
            f"sampler grid: the space has more than {MAX_SETTINGS} settings; search fewer options"
            " or larger steps, or choose --sampler qmc"
        )


def _check_cmaes(space: Space) -> None:
    try:
        import cmaes  # noqa: F401  # here: only where it is asked for
    except ImportError:
        raise ConfigError(
            "sampler cmaes needs the package cmaes; pip install -r requirements.txt"
        ) from None
    for parameter in space.parameters:
        kind = "categorical" * isinstance(parameter.distribution, CategoricalDistribution)
        kind = kind or "conditional" * (parameter.when is not None)
        if kind:
            raise ConfigError(
                f"sampler cmaes: {parameter.name} is {kind}, and CMA-ES moves in numbers that all"
                " trials have; give its row type: fixed, int or float without `when`, or choose"
                " --sampler tpe"
            )


class _Sobol(QMCSampler):
    """The scrambled Sobol sequence, trial n having its point n."""

    def __init__(self, space: Space, seed: int, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._space, self._number = {p.name: p.distribution for p in space.parameters}, number

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        # All, also those whose condition does not hold: the point of a trial depends on nothing.
        return self._space

    def _find_sample_id(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution]
    ) -> int:
        # Optuna counts draws in the study: a draw that a kill makes anew would be another.
        return self._number


class _CmaEs(RandomSampler):
    """CMA-ES of the package cmaes, made anew from the trials that were trained to the end.

    Optuna's own keeps its state between trials in the study, as a pickle.
    """

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(seed=seed)
        self._parameters, self._seed = space.parameters, seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {p.name: p.distribution for p in self._parameters}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        if len(search_space) < 2:  # the package has no CMA-ES of one dimension
            return {}
        point = self._replayed(study).ask()
        units = zip(self._parameters, point, strict=True)
        return {p.name: _from_unit(p.distribution, float(unit)) for p, unit in units}

    def _replayed(self, study: optuna.Study) -> "CMA":
        """Return the state after all whole generations, in the order in which trials ended."""
        import numpy as np
        from cmaes import CMA

        mean = self._point({p.name: p.default for p in self._parameters})
        bounds = np.tile([0.0, 1.0], (len(mean), 1))
        state = CMA(mean=np.array(mean), sigma=_SIGMA, bounds=bounds, seed=self._seed % 2**32)
        sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ended.sort(key=lambda t: (t.datetime_complete, t.number))
        told = [(np.array(self._point(t.params)), sign * (t.value or 0.0)) for t in ended]
        size = state.population_size
        for first in range(0, len(told) - size + 1, size):
            state.tell(told[first : first + size])
        return state

    def _point(self, params: Mapping[str, Any]) -> list[float]:
        return [_to_unit(p.distribution, params[p.name]) for p in self._parameters]


def _to_unit(distribution: BaseDistribution, value: float) -> float:
    """Return the place of a value between the ends of its range: 0 to 1."""
    low, high, is_log = _ends(distribution)
    place = math.log(value) if is_log else value
    return (place - low) / (high - low) if high > low else 0.5


def _from_unit(distribution: BaseDistribution, unit: float) -> float | int:
    """Return the value at a place of 0 to 1, on its step."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, is_log = _ends(distribution)
    place = low + unit * (high - low)
    value = math.exp(place) if is_log else place
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * (
            distribution.step
        )
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def _ends(distribution: BaseDistribution) -> tuple[float, float, bool]:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(low), math.log(high), True
    return low, high, False
