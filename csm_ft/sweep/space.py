"""The search space: the rows of a sweep config as distributions, checked before anything runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import Trial

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.schedule import Duration
from csm_ft.sweep.expressions import Expression
from csm_ft.sweep.rows import Categorical, FloatRange, IntRange, Rows, Searched

MAX_SETTINGS = 10_000  # of a space that is searched without repetition
NEIGHBOUR_FACTORS = (3.0, 1 / 3)  # of the default's learning rate: trials 1 and 2


@dataclass(frozen=True)
class Parameter:
    """One searched option."""

    name: str
    distribution: BaseDistribution
    default: Any  # value of trial 0
    when: tuple[str, tuple[Any, ...]] | None  # searched only where an option has such a value


@dataclass(frozen=True)
class Space:
    """The searched options, those that others depend on first; and what all trials share."""

    parameters: Sequence[Parameter]
    base: TrainConfig
    computed: Mapping[str, Expression] = field(default_factory=dict)

    def compute(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that follow from the parameters of a trial.

        Raises ConfigError where they cannot be computed.
        """
        values = {**self.base.model_dump(), **params}
        for name, expression in self.computed.items():
            values[name] = expression.value(values)
        return {name: values[name] for name in self.computed}

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw the parameters of a trial; those whose condition does not hold are left out.

        Asked again, it gives the same values.
        """
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if self.is_active(parameter, values):
                values[parameter.name] = _suggest(trial, parameter.name, parameter.distribution)
        return values

    def first_points(self) -> list[dict[str, Any]]:
        """Return the first trials: the default, and its neighbours in learning rate."""
        default: dict[str, Any] = {}
        for parameter in self.parameters:
            if self.is_active(parameter, default):
                default[parameter.name] = parameter.default
        points = [default]
        rate = next((p for p in self.parameters if p.name == "learning_rate"), None)
        if rate is None or rate.name not in default:
            return points
        if not isinstance(rate.distribution, FloatDistribution):
            return points
        low, high = rate.distribution.low, rate.distribution.high
        for factor in NEIGHBOUR_FACTORS:
            value = _on_step(rate.distribution, min(max(rate.default * factor, low), high))
            if value not in [point[rate.name] for point in points]:
                points.append({**default, rate.name: value})
        return points

    def has(self, setting: Mapping[str, Any]) -> bool:
        """Tell whether a setting is one of the space, with what is searched in it and no more."""
        active = [p for p in self.parameters if self.is_active(p, setting)]
        names = {parameter.name for parameter in active}
        return names == set(setting) and all(
            contains(parameter.distribution, setting[parameter.name]) for parameter in active
        )

    def settings(self, limit: int) -> list[dict[str, Any]] | None:
        """Return every setting of the space; None if there are more than `limit`."""
        settings: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            values = _values(parameter.distribution, limit)
            if values is None:
                return None
            grown: list[dict[str, Any]] = []
            for setting in settings:
                if self.is_active(parameter, setting):
                    grown += [{**setting, parameter.name: value} for value in values]
                else:
                    grown.append(setting)
            settings = grown
            if len(settings) > limit:
                return None
        return settings

    def describe(self) -> dict[str, str]:
        """Return the space as text per option, to be kept with the study and compared."""
        return {p.name: _describe(p) for p in self.parameters}

    def is_active(self, parameter: Parameter, values: Mapping[str, Any]) -> bool:
        """Tell whether a parameter is searched in a trial, by the values of those before it."""
        if parameter.when is None:
            return True
        name, wanted = parameter.when
        searched = any(p.name == name for p in self.parameters)
        return (values.get(name) if searched else getattr(self.base, name)) in wanted


def make_space(rows: Rows, num_train_examples: int) -> Space:
    """Make the space of a sweep config.

    Every choice and each end of a range goes through the config class. Raises ConfigError: file,
    key, value, rule, way out.
    """
    parameters = []
    for name, row in rows.searched.items():
        distribution = _distribution(rows, name, row)
        if row.default is not None:
            default = _own_default(rows, name, row.default, distribution)
        else:
            default = _nearest_default(rows, name, distribution, num_train_examples)
        parameters.append(Parameter(name, distribution, default, _condition(rows, name, row)))
    space = Space(_parents_first(rows, parameters), rows.base, rows.computed)
    _check_computed(rows, space)
    return space


def _check_computed(rows: Rows, space: Space) -> None:
    """Compute what follows from the default, and from each end or choice beside it."""
    if not space.computed:
        return
    default = {p.name: p.default for p in space.parameters}
    points = [default]
    for parameter in space.parameters:
        match parameter.distribution:
            case CategoricalDistribution(choices=choices):
                ends = choices
            case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
                ends = (low, high)
            case _:
                ends = ()
        points += [{**default, parameter.name: end} for end in ends]
    for point in points:
        with_names = ", ".join(f"{name} {value}" for name, value in point.items())
        try:
            values = space.compute(point)
        except ConfigError as error:
            raise ConfigError(f"{rows.path}: with {with_names}: {error}") from None
        for name, value in values.items():
            rows.checked(f"{name} = {space.computed[name].text} with {with_names}", name, value)


def _distribution(rows: Rows, name: str, row: Searched) -> BaseDistribution:
    if isinstance(row, Categorical):
        return _choices(rows, name, row)
    return _range(rows, name, row)


def _choices(rows: Rows, name: str, row: Categorical) -> CategoricalDistribution:
    choices = [rows.checked(f"{name}: choice {v!r}", name, v) for v in row.values]
    if len(set(map(str, choices))) < len(choices):
        raise ConfigError(f"{rows.path}: {name}: values {row.values} name a choice twice; drop one")
    if any(not isinstance(choice, bool | int | float | str) for choice in choices):
        raise ConfigError(
            f"{rows.path}: {name}: a list cannot be a choice; search an option with single values"
        )
    return CategoricalDistribution(choices)


def _range(rows: Rows, name: str, row: FloatRange | IntRange) -> BaseDistribution:
    if row.min > row.max or (row.log and row.min <= 0):
        rule = "min above max" if row.min > row.max else "log needs min above 0"
        raise ConfigError(f"{rows.path}: {name}: min {row.min:g}, max {row.max:g}: {rule}")
    for end in (row.min, row.max):
        rows.checked(f"{name}: {end!r}", name, end)
    if row.step is not None:
        _check_step(rows, name, row, row.step)
    if isinstance(row, IntRange):
        return IntDistribution(row.min, row.max, log=row.log, step=row.step or 1)
    return FloatDistribution(row.min, row.max, log=row.log, step=row.step)


def _check_step(rows: Rows, name: str, row: FloatRange | IntRange, step: float) -> None:
    where = f"{rows.path}: {name}: min {row.min:g}, max {row.max:g}, step {step:g}"
    if row.log:
        raise ConfigError(f"{where}: a logarithmic range has no steps; drop step or log")
    if step <= 0 or not _is_whole((row.max - row.min) / step):
        raise ConfigError(
            f"{where}: max must lie a whole number of steps above min, and step above 0"
        )


def _is_whole(number: float) -> bool:
    return math.isclose(number, round(number), rel_tol=1e-9, abs_tol=1e-9)


def _on_step(distribution: FloatDistribution | IntDistribution, value: float) -> float | int:
    """Return the value of a range's steps that is nearest to one within the range."""
    if distribution.step is None:
        return value
    num_steps = round((value - distribution.low) / distribution.step)
    return min(distribution.low + num_steps * distribution.step, distribution.high)


def _condition(rows: Rows, name: str, row: Searched) -> tuple[str, tuple[Any, ...]] | None:
    if row.when is None:
        return None
    if len(row.when) != 1:
        raise ConfigError(
            f"{rows.path}: {name}: when: {row.when!r} must be one `key: value` or `key: [values]`"
        )
    ((key, wanted),) = row.when.items()
    return str(key), tuple(wanted) if isinstance(wanted, list) else (wanted,)


def _own_default(rows: Rows, name: str, default: Any, distribution: BaseDistribution) -> Any:
    """Return the value of trial 0 that the row names."""
    value = rows.checked(f"{name}: default {default!r}", name, default)
    if not isinstance(distribution, CategoricalDistribution):
        value = _number(value, distribution)
    if value is None or not contains(distribution, value):
        raise ConfigError(f"{rows.path}: {name}: default {default!r} is not in its own range")
    return value


def _nearest_default(
    rows: Rows, name: str, distribution: BaseDistribution, num_train_examples: int
) -> Any:
    """Return the config's value for trial 0, or the nearest to it that is searched."""
    value = getattr(rows.base, name)
    if isinstance(distribution, CategoricalDistribution):
        nearest = value if contains(distribution, value) else distribution.choices[0]
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        number = _number(value, distribution)
        if number is None:
            number = value = _as_steps(str(value), rows.base, num_train_examples)
            if number is None:
                raise ConfigError(
                    f"{rows.path}: {name}: the value without a sweep,"
                    f" {getattr(rows.base, name)!r}, is no number to begin from; add `default:` to"
                    " the row"
                )
            console.print(
                f"{name}: {getattr(rows.base, name)} means {number} optimiser steps of trial 0"
            )
        inside = min(max(number, distribution.low), distribution.high)
        nearest = _on_step(distribution, inside)
    if str(nearest) != str(value):
        console.print(
            f"[yellow]{name}: {value} is not in the space of {rows.path}; trial 0 has {nearest}"
            " (`default:` in its row chooses another)[/]"
        )
    return nearest


def _number(value: Any, distribution: BaseDistribution) -> Any:
    try:
        return float(value) if isinstance(distribution, FloatDistribution) else int(value)
    except (TypeError, ValueError):
        return None


def _as_steps(text: str, base: TrainConfig, num_train_examples: int) -> int | None:
    """Return a duration such as 5% of the run in optimiser steps of the default's run."""
    try:
        duration = Duration.parse(text)
    except ValueError:
        return None
    examples_per_step = base.batch_size * base.grad_acc_steps
    horizon = base.max_steps * examples_per_step or base.n_epochs * num_train_examples
    examples_per_unit = {
        "steps": examples_per_step,
        "examples": 1,
        "epochs": num_train_examples,
        "run": horizon,
    }
    examples = float(duration.amount) * examples_per_unit[duration.unit]
    return round(examples / examples_per_step)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Tell whether a value, of any type, is one that the distribution can draw."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    return distribution.step is None or _is_whole((value - distribution.low) / distribution.step)


def _parents_first(rows: Rows, parameters: Sequence[Parameter]) -> list[Parameter]:
    """Order the parameters so that each comes after the one its condition names; check those."""
    by_name = {p.name: p for p in parameters}
    ordered: dict[str, Parameter] = {}
    for parameter in parameters:
        chain = [parameter]
        while (when := chain[-1].when) is not None and when[0] in by_name:
            if by_name[when[0]] in chain:
                raise ConfigError(
                    f"{rows.path}: {parameter.name}: when: the conditions of"
                    f" {', '.join(p.name for p in chain)} form a circle"
                )
            chain.append(by_name[when[0]])
        for link in reversed(chain):
            ordered.setdefault(link.name, _check_condition(rows, link, by_name))
    return list(ordered.values())


def _check_condition(
    rows: Rows, parameter: Parameter, by_name: Mapping[str, Parameter]
) -> Parameter:
    """Return the parameter with the values of its condition as the config class takes them."""
    if parameter.when is None:
        return parameter
    name, wanted = parameter.when
    where = f"{rows.path}: {parameter.name}: when"
    if name not in type(rows.base).model_fields:
        raise ConfigError(f"{where}: {name} is not an option of train.py")
    if name in rows.computed:
        raise ConfigError(f"{where}: {name} is computed; name an option that is searched or fixed")
    wanted = tuple(rows.checked(f"{parameter.name}: when", name, v) for v in wanted)
    if name in by_name:
        missing = [v for v in wanted if not contains(by_name[name].distribution, v)]
        if missing:
            raise ConfigError(
                f"{where}: {name} is never {missing[0]!r}; name a value that is searched"
            )
    elif getattr(rows.base, name) not in wanted:
        raise ConfigError(
            f"{where}: {name} is {getattr(rows.base, name)!r} in every trial, so it is never"
            " searched"
        )
    return replace(parameter, when=(name, wanted))


def _describe(parameter: Parameter) -> str:
    text = distribution_to_json(parameter.distribution)
    if parameter.when is None:
        return text
    name, wanted = parameter.when
    return f"{text} when {name} in {list(wanted)}"


def num_values(distribution: BaseDistribution) -> float:
    """Return how many values a distribution has; math.inf for a continuous one."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.low == distribution.high:
        return 1
    if distribution.step is None:
        return math.inf
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _values(distribution: BaseDistribution, limit: int) -> Sequence[Any] | None:
    """Return all values of a distribution; None for a continuous one, or more than `limit`."""
    count = num_values(distribution)
    if count > limit:
        return None
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, step = distribution.low, distribution.step or 0
    return [min(low + place * step, distribution.high) for place in range(int(count))]


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, log=log, step=step)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, log=log, step=step)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise AssertionError(f"unknown distribution {distribution}")
