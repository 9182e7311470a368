"""A study whose search space has changed: its trials as trials of the new space.

Optuna fixes the choices and the scale of a parameter for the life of a study, and TPE leaves out
trials that were drawn from another range. So the trials of a changed space need a new study.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)
from optuna.trial import FrozenTrial

from csm_ft.errors import SweepError
from csm_ft.sweep.space import Space, contains
from csm_ft.sweep.trials import SPACE_OF, TRIAL_0

Agreement = Mapping[str, Any]
_CONDITION = " when "  # between the distribution and the condition in the text of a space


def differences(before: Agreement, now: Agreement) -> list[str]:
    """Return what makes trials incomparable: all that differs, but for the spaces of options.

    What an option was fixed to does not matter where it is searched now: the trials keep it.
    """
    is_new = _spaces(now).keys() - _spaces(before).keys()
    old, new = _others(before), _others(now)
    return [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in sorted({*old, *new} - is_new)
        if old.get(name) != new.get(name)
    ]


def changes(before: Agreement, now: Agreement) -> list[str]:
    """Return in words how the space of each option has changed."""
    old, new = _spaces(before), _spaces(now)
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    return [f"{name} from {_words(name, before)} to {_words(name, now)}" for name in names]


def take_over(trials: Sequence[FrozenTrial], before: Agreement, space: Space) -> list[FrozenTrial]:
    """Return the trials of a study as trials of a new space, with their numbers.

    Trials at the end that were drawn and never dispatched are left out: they are drawn again.
    Raises SweepError when a trial does not fit into the new space.
    """
    kept = list(trials)
    while kept and not kept[-1].state.is_finished() and "attempts" not in kept[-1].user_attrs:
        kept.pop()
    taken = [_take_over(trial, _others(before), space) for trial in kept]
    if taken:
        _check_default(taken[0], space)
    return taken


def _take_over(trial: FrozenTrial, fixed: Mapping[str, Any], space: Space) -> FrozenTrial:
    """Return a copy whose parameters are those of the new space.

    `fixed` holds the values of options where they were not searched.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    left = dict(trial.params)
    for parameter in space.parameters:
        name, distribution = parameter.name, parameter.distribution
        value = left.pop(name, fixed.get(name))
        if space.is_active(parameter, params):
            if not contains(distribution, value):
                raise _misfit(trial, name, value, f"which is not in {_range(distribution)}")
            params[name] = _as_drawn(distribution, value)
            distributions[name] = distribution
        elif name in trial.params or value != space.base.training_keys().get(name):
            raise _misfit(trial, name, value, "which its condition leaves out now")
    for name, value in left.items():
        raise _misfit(trial, name, value, "which is not searched any more")
    taken = copy.copy(trial)
    taken.params, taken.distributions = params, distributions
    return taken


def _check_default(trial: FrozenTrial, space: Space) -> None:
    """Check that the default trial is still the default: the verdict compares with it."""
    for name, value in space.first_points()[0].items():
        if trial.params[name] != value:
            raise SweepError(
                f"the search space has changed, and trial 0 would have {name} {value!r} now, where"
                f" it has {trial.params[name]!r}. Ways out: write `default:"
                f" {trial.params[name]!r}` in its row, or choose another --output_dir for a new"
                " study"
            )


def _misfit(trial: FrozenTrial, name: str, value: Any, why: str) -> SweepError:
    return SweepError(
        f"the search space has changed, and trial {trial.number} does not fit into it: it has"
        f" {name} {value!r}, {why}. Ways out: put it back into the space, or choose another"
        " --output_dir for a new study"
    )


def _as_drawn(distribution: BaseDistribution, value: Any) -> Any:
    match distribution:
        case FloatDistribution():
            return float(value)
        case IntDistribution():
            return int(value)
    return value


def _spaces(agreement: Agreement) -> dict[str, str]:
    """Return the spaces of the searched options, by name."""
    return {
        name.removeprefix(SPACE_OF): text
        for name, text in agreement.items()
        if name.startswith(SPACE_OF)
    }


def _others(agreement: Agreement) -> dict[str, Any]:
    """Return all but the spaces; options by name, whether they are searched or not."""
    return {
        name.removeprefix(TRIAL_0): value
        for name, value in agreement.items()
        if not name.startswith(SPACE_OF)
    }


def _words(name: str, agreement: Agreement) -> str:
    text = _spaces(agreement).get(name)
    if text is None:
        return f"the fixed {_others(agreement).get(name)!r}"
    drawn, _, condition = text.partition(f"}}{_CONDITION}")
    words = _range(json_to_distribution(f"{drawn}}}" if condition else drawn))
    return f"{words}{_CONDITION}{condition}" if condition else words


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"[{', '.join(map(str, distribution.choices))}]"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low}..{distribution.high}{_manner(distribution)}"


def _manner(distribution: FloatDistribution | IntDistribution) -> str:
    if distribution.log:
        return " (log)"
    return f" (step {distribution.step})" if distribution.step not in (None, 1) else ""
