"""A sweep config: a YAML file with one row per option, in the public CSM trainer's format.

learning_rate: {type: float, min: 5e-6, max: 1.5e-4, log: true}
batch_size: {type: categorical, values: [8, 16, 32], default: 16}
min_lr_ratio: {type: float, min: 0, max: 0.3, when: {lr_decay: cosine}}
max_grad_norm: {type: fixed, value: 1.3}
lora_alpha: {type: expression, value: 2 * lora_rank}

`default` (the value of trial 0), `when` and expressions are ours. W&B's own format is understood,
too (wandb_space.py).
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from csm_ft import assets
from csm_ft.config.base import build, extra
from csm_ft.config.train import TrainConfig
from csm_ft.config.yaml_file import load_yaml
from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.sweep.config import DEFAULT_SPACE
from csm_ft.sweep.expressions import Expression
from csm_ft.sweep.request import SET_BY_SWEEP, SweepRequest
from csm_ft.sweep.wandb_space import is_wandb, rows_of

_KINDS = (
    "type: categorical (values), float or int (min, max, log or step), fixed (value), or expression"
    " (value)"
)
# Options that no sweep searches, but that a sweep config may fix for all trials.
_MAY_BE_FIXED = ("n_epochs", "max_steps", "seed")


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


_Whole = Annotated[int, BeforeValidator(_number)]  # 1e3 is a string in YAML 1.1


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    default: Any = None
    when: dict[str, Any] | None = None


class Categorical(_Row):
    """One of several values."""

    type: Literal["categorical"]
    values: list[Any] = Field(min_length=1)


class FloatRange(_Row):
    """A number between two ends."""

    type: Literal["float"]
    min: FiniteFloat
    max: FiniteFloat
    log: bool = False
    step: FiniteFloat | None = None


class IntRange(_Row):
    """A whole number between two ends, both included."""

    type: Literal["int"]
    min: _Whole
    max: _Whole
    log: bool = False
    step: _Whole | None = None


class Fixed(BaseModel):
    """The same value for all trials."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["fixed"]
    value: Any


class Computed(BaseModel):
    """A value that follows from other options of the trial."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    type: Literal["expression"]
    value: str


Searched = Categorical | FloatRange | IntRange
Row = Searched | Fixed | Computed
_ROW: TypeAdapter[Row] = TypeAdapter(Annotated[Row, Field(discriminator="type")])


@dataclass(frozen=True)
class Rows:
    """A sweep config and the options that all trials share, checked together."""

    path: Path
    searched: Mapping[str, Searched]
    base: TrainConfig
    computed: Mapping[str, Expression]  # each after those that it names

    def checked(self, what: str, name: str, value: Any) -> Any:
        """Return `value` as the config class takes it for `name`; ConfigError begins with `what`.

        So a bad choice is an error now, not a lost trial later.
        """
        values = self.base.model_dump() | {name: value}
        return getattr(build_checked(self.path, what, type(self.base), values), name)


def read_rows(path: Path, request: SweepRequest) -> Rows:
    """Read a sweep config; ConfigError names file, key, value, rule and way out."""
    train_class, given = request.train_class, request.given
    rows = {
        name: _parse_row(path, name, row, train_class) for name, row in _read_yaml(path).items()
    }
    _check_rows(path, rows, train_class)
    fixed = {name: row.value for name, row in rows.items() if isinstance(row, Fixed)}
    for name in [name for name in fixed if name in given]:
        by_flag, by_row = (
            build(train_class, {name: value}) for value in (given[name], fixed[name])
        )
        if by_flag == by_row:
            continue
        if _is_shipped(path):  # nobody wrote the row, so it is not in conflict with anything
            console.print(f"{name} is {given[name]}, as given, not {fixed[name]} as in {path}")
            del fixed[name]
        else:
            raise ConfigError(
                f"{path}: {name} is fixed to {fixed[name]!r} here and given as {given[name]!r};"
                " drop one of the two"
            )
    values = {**request.defaults, **given, **fixed}
    base = build_checked(path, "fixed values", train_class, values)
    searched = {name: row for name, row in rows.items() if isinstance(row, Searched)}
    computed = _expressions(path, rows, train_class)
    for name in [name for name in computed if name in given]:
        raise ConfigError(
            f"{path}: {name} is computed here and given as {given[name]!r}; drop one of the two"
        )
    if not searched:
        raise ConfigError(
            f"{path}: nothing is searched; give at least one key a type of float, int or"
            " categorical"
        )
    sizes = {"batch_size", "grad_acc_steps", "batch_tokens", *train_class.changes_examples}
    if base.max_steps and sizes & {*searched, *computed}:
        raise ConfigError(
            f"max_steps {base.max_steps} with a searched size of batches or examples lets trials"
            " see different amounts of data; use --n_epochs instead"
        )
    return Rows(path, searched, base, computed)


def _expressions(
    path: Path, rows: Mapping[str, Row], train_class: type[TrainConfig]
) -> dict[str, Expression]:
    """Return the computed options, each after those that it names."""
    left = {name: row for name, row in rows.items() if isinstance(row, Computed)}
    found: dict[str, Expression] = {}
    for name, row in left.items():
        try:
            found[name] = Expression(row.value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {name}: {error}") from None
        for other in found[name].names:
            _check_name(path, f"{name}: {other}", other, train_class)
    ordered: dict[str, Expression] = {}
    while len(ordered) < len(found):
        waiting = [name for name in found if name not in ordered]
        ready = [name for name in waiting if not set(found[name].names) & set(waiting)]
        if not ready:
            raise ConfigError(f"{path}: the expressions of {', '.join(waiting)} form a circle")
        ordered |= {name: found[name] for name in ready}
    return ordered


def _is_shipped(path: Path) -> bool:
    """Tell whether a sweep config is one that comes with the program, wherever it lies."""
    shipped = assets.path_of(f"configs/{path.name}")
    return shipped.is_file() and shipped.read_bytes() == path.read_bytes()


def find_space(path: str) -> Path:
    """Return the sweep config; those of this repository are found from any folder."""
    is_ours = Path(path).parent == Path(DEFAULT_SPACE).parent
    bundled = assets.path_of(path)
    return bundled if is_ours and not Path(path).is_file() and bundled.is_file() else Path(path)


def build_checked(
    path: Path, what: str, train_class: type[TrainConfig], values: Mapping[str, Any]
) -> TrainConfig:
    """Validate a config; ConfigError begins with the file and `what`."""
    try:
        return build(train_class, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {what}: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"--sweep_config {path}: no such file; the one of this repository is {DEFAULT_SPACE}"
        )
    rows = load_yaml(path)
    if not isinstance(rows, dict) or not rows:
        raise ConfigError(
            f"{path}: a sweep config has one key per option, such as `learning_rate: {{type: float,"
            " min: 5e-6, max: 1.5e-4, log: true}`"
        )
    if is_wandb(rows):
        return rows_of(path, rows)
    return {str(name): row for name, row in rows.items()}


def _check_name(path: Path, what: str, name: str, train_class: type[TrainConfig]) -> None:
    names = list(train_class.model_fields)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = (
            f"; did you mean {near[0]}?" if near else "; train.py --help lists what can be searched"
        )
        raise ConfigError(f"{path}: {what} is not an option of train.py{hint}")


def _parse_row(path: Path, name: str, row: Any, train_class: type[TrainConfig]) -> Row:
    _check_name(path, name, name, train_class)
    try:
        parsed = _ROW.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        kinds = ("categorical", "float", "int", "fixed", "expression")
        where = ".".join([name, *(str(part) for part in first["loc"] if part not in kinds)])
        raise ConfigError(
            f"{path}: {where}: {first['input']!r}: {first['msg']}; a row has {_KINDS}"
        ) from None
    return parsed


def _check_rows(path: Path, rows: Mapping[str, Row], train_class: type[TrainConfig]) -> None:
    is_learning_curve = isinstance(rows.get("data_fraction"), Searched)
    for name, row in rows.items():
        if isinstance(row, Fixed):
            _check_fixed(path, name, train_class)
        elif name != "seed" or not is_learning_curve:  # its error bars are over seeds
            _check_searched(path, name, row, train_class)


def _check_searched(
    path: Path, name: str, row: Searched | Computed, train_class: type[TrainConfig]
) -> None:
    values: Sequence[Any] = ()
    if isinstance(row, Searched):
        values = row.values if isinstance(row, Categorical) else (row.min, row.max)
    reason = train_class.refuse_search(name, values)
    if not reason and not extra(train_class.model_fields[name])["trains"]:
        reason = "it does not change what the model learns; give it as a flag for all trials"
    if reason:
        raise ConfigError(f"{path}: {name} cannot be searched: {reason}")


def _check_fixed(path: Path, name: str, train_class: type[TrainConfig]) -> None:
    """Refuse to fix what the sweep sets itself, and what decides how the data is read."""
    flags = set(train_class.not_searchable) - set(_MAY_BE_FIXED)
    if name in {"data", "output_dir", "family", *flags, *SET_BY_SWEEP}:
        raise ConfigError(
            f"{path}: {name} cannot be fixed here: the sweep sets it for every trial, or it is a"
            " flag of sweep.py; drop the row"
        )
