"""The search space.

A YAML file (the public CSM trainer's format and two keys more) read into distributions, checked
before anything runs.

learning_rate: {type: float, min: 5e-6, max: 1.5e-4, log: true}
batch_size: {type: categorical, values: [8, 16, 32], default: 16}
min_lr_ratio: {type: float, min: 0, max: 0.3, when: {lr_decay: cosine}}
max_grad_norm: {type: fixed, value: 1.3}
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import Trial
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from csm_ft.config import ConfigError, TrainConfig, build
from csm_ft.console import console
from csm_ft.schedule import Duration
from csm_ft.sweep.config import DEFAULT_SPACE, SET_BY_SWEEP, SweepRequest

NEIGHBOUR_FACTORS = (3.0, 1 / 3)  # of the default's learning rate: trials 1 and 2
REFUSED: Mapping[str, str] = {
    "data": "trials on other data cannot be compared",
    "family": "models of other families have other yardsticks",
    "seed": "a search over seeds finds luck; the seed is the same for all trials",
    "n_epochs": (
        "trials are compared at equal numbers of examples seen; give --n_epochs for all of them"
    ),
    "max_steps": (
        "trials are compared at equal numbers of examples seen; give --n_epochs for all of them"
    ),
    "context_positions": "it changes what an example is; give it as a flag for all trials",
    "val_turns": (
        "trials validated on other turns cannot be compared; give it as a flag for all trials"
    ),
}


Whole = Annotated[
    int, BeforeValidator(lambda value: float(value) if isinstance(value, str) else value)
]  # 1e3 is a string in YAML 1.1


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    default: Any = None
    when: dict[str, Any] | None = None


class _Categorical(_Row):
    type: Literal["categorical"]
    values: list[Any] = Field(min_length=1)


class _Float(_Row):
    type: Literal["float"]
    min: FiniteFloat
    max: FiniteFloat
    log: bool = False


class _Int(_Row):
    type: Literal["int"]
    min: Whole
    max: Whole
    log: bool = False


class _Fixed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["fixed"]
    value: Any


_ROW: TypeAdapter[_Categorical | _Float | _Int | _Fixed] = TypeAdapter(
    Annotated[_Categorical | _Float | _Int | _Fixed, Field(discriminator="type")]
)


@dataclass(frozen=True)
class Parameter:
    """One searched option."""

    name: str
    distribution: BaseDistribution
    default: Any  # value of trial 0
    when: (
        tuple[str, tuple[Any, ...]] | None
    )  # searched only where another option has one of these values


@dataclass(frozen=True)
class Space:
    """The searched options, those that others depend on first.

    And what is the same for all trials.
    """

    parameters: Sequence[Parameter]
    base: TrainConfig

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw the parameters of a trial; those whose condition does not hold are left out.

        Asked again, it gives the same values.
        """
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._is_active(parameter, values):
                values[parameter.name] = _suggest(trial, parameter.name, parameter.distribution)
        return values

    def first_points(self) -> list[dict[str, Any]]:
        """Return the parameters of the first trials.

        The default, and its neighbours in learning rate within the range.
        """
        default: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._is_active(parameter, default):
                default[parameter.name] = parameter.default
        points = [default]
        rate = next((p for p in self.parameters if p.name == "learning_rate"), None)
        if (
            rate is not None
            and isinstance(rate.distribution, FloatDistribution)
            and rate.name in default
        ):
            for factor in NEIGHBOUR_FACTORS:
                value = min(
                    max(rate.default * factor, rate.distribution.low), rate.distribution.high
                )
                if value not in [point[rate.name] for point in points]:
                    points.append({**default, rate.name: value})
        return points

    def describe(self) -> dict[str, Any]:
        """Return the space as plain values, to be kept with the study and compared."""
        return {
            p.name: (
                distribution_to_json(p.distribution)
                + (f" when {p.when[0]} in {list(p.when[1])}" if p.when else "")
            )
            for p in self.parameters
        }

    def _is_active(self, parameter: Parameter, values: Mapping[str, Any]) -> bool:
        if parameter.when is None:
            return True
        name, wanted = parameter.when
        searched = any(p.name == name for p in self.parameters)
        return (values.get(name) if searched else getattr(self.base, name)) in wanted


def read_space(path: Path, request: SweepRequest, *, num_train_examples: int) -> Space:
    """Read and check a sweep config together with the options that all trials share.

    Every choice and each end of a range goes through the config class, so a bad one is a
    ConfigError (file, key, value, rule, way out) now, not a lost trial later.
    """
    train_class, given = request.train_class, request.given
    rows = {
        name: _parse_row(path, name, row, train_class) for name, row in _read_rows(path).items()
    }
    fixed: dict[str, Any] = {}
    for name, row in rows.items():
        if isinstance(row, _Fixed):
            if name in given and build(train_class, {name: given[name]}) != build(
                train_class, {name: row.value}
            ):
                raise ConfigError(
                    f"{path}: {name} is fixed to {row.value!r} here and given as {given[name]!r};"
                    " drop one of the two"
                )
            fixed[name] = row.value
    base = _checked(path, "fixed values", train_class, {**request.defaults, **given, **fixed})
    searched = {name: row for name, row in rows.items() if not isinstance(row, _Fixed)}
    if not searched:
        raise ConfigError(
            f"{path}: nothing is searched; give at least one key a type of float, int or"
            " categorical"
        )
    if base.max_steps and {"batch_size", "grad_acc_steps", "batch_tokens"} & set(searched):
        raise ConfigError(
            f"max_steps {base.max_steps} with a searched batch size lets trials see different"
            " amounts of data; use --n_epochs instead"
        )
    parameters = [
        _parameter(path, name, row, base, num_train_examples) for name, row in searched.items()
    ]
    return Space(_parents_first(path, parameters, base), base)


def find_space(path: str) -> Path:
    """Return the sweep config; the default one is found from any folder."""
    beside = Path(__file__).resolve().parents[2] / path
    if path == DEFAULT_SPACE and not Path(path).is_file() and beside.is_file():
        return beside
    return Path(path)


def _read_rows(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"--sweep_config {path}: no such file; the one of this repository is {DEFAULT_SPACE}"
        )
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(rows, dict) or not rows:
        raise ConfigError(
            f"{path}: a sweep config has one key per option, such as `learning_rate: {{type: float,"
            " min: 5e-6, max: 1.5e-4, log: true}`"
        )
    return {str(name): row for name, row in rows.items()}


def _parse_row(
    path: Path, name: str, row: Any, train_class: type[TrainConfig]
) -> _Categorical | _Float | _Int | _Fixed:
    names = list(train_class.model_fields)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = (
            f"; did you mean {near[0]}?" if near else "; train.py --help lists what can be searched"
        )
        raise ConfigError(f"{path}: {name} is not an option of train.py{hint}")
    try:
        parsed = _ROW.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(
            str(part)
            for part in first["loc"]
            if part not in ("categorical", "float", "int", "fixed")
        )
        kinds = "type: categorical (values), float or int (min, max, log), or fixed (value)"
        raise ConfigError(
            f"{path}: {name}{f'.{where}' if where else ''}: {first['input']!r}: {first['msg']}; a"
            f" row has {kinds}"
        ) from None
    field: Any = train_class.model_fields[name]
    if not isinstance(parsed, _Fixed):
        if name in REFUSED:
            raise ConfigError(f"{path}: {name} cannot be searched: {REFUSED[name]}")
        if not field.json_schema_extra["trains"]:
            raise ConfigError(
                f"{path}: {name} cannot be searched: it does not change what is learned; give it as"
                " a flag for all trials"
            )
        if (
            name == "loss_turns"
            and isinstance(parsed, _Categorical)
            and any(str(v).startswith("speaker:") for v in parsed.values)
        ):
            raise ConfigError(
                f"{path}: loss_turns: trials of one speaker's turns see fewer examples; give it as"
                " a flag for all trials"
            )
    elif name in ("data", "output_dir", "family", "loss_turns", "context_positions", *SET_BY_SWEEP):
        raise ConfigError(
            f"{path}: {name} cannot be fixed here: the sweep sets it for every trial, or it is a"
            " flag of sweep.py; drop the row"
        )
    return parsed


def _parameter(
    path: Path,
    name: str,
    row: _Categorical | _Float | _Int,
    base: TrainConfig,
    num_train_examples: int,
) -> Parameter:
    if isinstance(row, _Categorical):
        choices = [
            getattr(
                _checked(path, f"{name}: choice {v!r}", type(base), base.model_dump() | {name: v}),
                name,
            )
            for v in row.values
        ]
        if len(set(map(str, choices))) < len(choices):
            raise ConfigError(f"{path}: {name}: values {row.values} name a choice twice; drop one")
        if any(not isinstance(choice, bool | int | float | str) for choice in choices):
            raise ConfigError(
                f"{path}: {name}: a list cannot be a choice; search an option with single values"
            )
        distribution: BaseDistribution = CategoricalDistribution(choices)
    else:
        if row.min > row.max or (row.log and row.min <= 0):
            rule = "min above max" if row.min > row.max else "log needs min above 0"
            raise ConfigError(f"{path}: {name}: min {row.min:g}, max {row.max:g}: {rule}")
        for end in (row.min, row.max):
            _checked(path, f"{name}: {end!r}", type(base), base.model_dump() | {name: end})
        if isinstance(row, _Int):
            distribution = IntDistribution(row.min, row.max, log=row.log)
        else:
            distribution = FloatDistribution(row.min, row.max, log=row.log)
    when = None
    if row.when is not None:
        if len(row.when) != 1:
            raise ConfigError(
                f"{path}: {name}: when: {row.when!r} must be one `key: value` or `key: [values]`"
            )
        ((key, wanted),) = row.when.items()
        when = (str(key), tuple(wanted) if isinstance(wanted, list) else (wanted,))
    return Parameter(
        name, distribution, _default(path, name, row, distribution, base, num_train_examples), when
    )


def _default(
    path: Path,
    name: str,
    row: _Row,
    distribution: BaseDistribution,
    base: TrainConfig,
    num_train_examples: int,
) -> Any:
    """Return the value of trial 0.

    The row's `default`, else the config's, else the nearest to it that is searched.
    """
    if row.default is not None:
        value = getattr(
            _checked(
                path,
                f"{name}: default {row.default!r}",
                type(base),
                base.model_dump() | {name: row.default},
            ),
            name,
        )
        value = (
            value
            if isinstance(distribution, CategoricalDistribution)
            else _number(value, distribution)
        )
        if value is None or not _contains(distribution, value):
            raise ConfigError(f"{path}: {name}: default {row.default!r} is not in its own range")
        return value
    value = getattr(base, name)
    if isinstance(distribution, CategoricalDistribution):
        nearest = value if _contains(distribution, value) else distribution.choices[0]
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        number = _number(value, distribution)
        if (
            number is None
            and (number := _as_steps(str(value), base, num_train_examples)) is not None
        ):
            console.print(f"{name}: {value} means {number} optimiser steps of trial 0")
            value = number
        if number is None:
            raise ConfigError(
                f"{path}: {name}: the value without a sweep, {value!r}, is no number to begin from;"
                " add `default:` to the row"
            )
        nearest = min(max(number, distribution.low), distribution.high)
    if str(nearest) != str(value):
        console.print(
            f"[yellow]{name}: {value} is not in the space of {path}; trial 0 has {nearest}"
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
    per_step = base.batch_size * base.grad_acc_steps
    horizon = base.max_steps * per_step or base.n_epochs * num_train_examples
    unit = {"steps": per_step, "examples": 1, "epochs": num_train_examples, "run": horizon}[
        duration.unit
    ]
    return round(float(duration.amount) * unit / per_step)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low <= value <= distribution.high


def _parents_first(
    path: Path, parameters: Sequence[Parameter], base: TrainConfig
) -> list[Parameter]:
    """Order the parameters so that each comes after the one its condition names.

    Check the conditions.
    """
    by_name = {p.name: p for p in parameters}
    ordered: dict[str, Parameter] = {}
    for parameter in parameters:
        chain = [parameter]
        while (when := chain[-1].when) is not None and when[0] in by_name:
            if by_name[when[0]] in chain:
                raise ConfigError(
                    f"{path}: {parameter.name}: when: the conditions of"
                    f" {', '.join(p.name for p in chain)} go round in a circle"
                )
            chain.append(by_name[when[0]])
        for link in reversed(chain):
            ordered.setdefault(link.name, _check_condition(path, link, by_name, base))
    return list(ordered.values())


def _check_condition(
    path: Path, parameter: Parameter, by_name: Mapping[str, Parameter], base: TrainConfig
) -> Parameter:
    if parameter.when is None:
        return parameter
    name, wanted = parameter.when
    if name not in type(base).model_fields:
        raise ConfigError(f"{path}: {parameter.name}: when: {name} is not an option of train.py")
    wanted = tuple(
        getattr(
            _checked(path, f"{parameter.name}: when", type(base), base.model_dump() | {name: v}),
            name,
        )
        for v in wanted
    )
    if name in by_name:
        missing = [v for v in wanted if not _contains(by_name[name].distribution, v)]
        if missing:
            raise ConfigError(
                f"{path}: {parameter.name}: when: {name} is never {missing[0]!r}; name a value that"
                " is searched"
            )
    elif getattr(base, name) not in wanted:
        raise ConfigError(
            f"{path}: {parameter.name}: when: {name} is {getattr(base, name)!r} in every trial, so"
            " it is never searched"
        )
    return replace(parameter, when=(name, wanted))


def _checked(
    path: Path, what: str, train_class: type[TrainConfig], values: Mapping[str, Any]
) -> TrainConfig:
    try:
        return build(train_class, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {what}: {error}") from None


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise AssertionError(f"unknown distribution {distribution}")
