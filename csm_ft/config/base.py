"""The base of every program's config: options, YAML files, validation and its messages.

Each program has one pydantic class whose fields are its options. The description of a field is the
help of its flag and its row in docs/options.md. A value comes from a flag, else from the YAML file
of `--config`, else from the default.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args

import yaml
from dotenv import dotenv_values, find_dotenv
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from csm_ft.config.yaml_file import load_yaml
from csm_ft.errors import ConfigError

C = TypeVar("C", bound="Options")


def option(
    default: Any,
    description: str,
    *,
    group: str,
    trains: bool = True,
    positional: bool = False,
    repeatable: bool = False,
    path: bool = False,
    **bounds: float,
) -> Any:
    """Declare an option.

    `trains=False` marks one that cannot change the trained weights, so that a resumed run may
    change it. `positional` makes it an argument without a flag; each use of a `repeatable` flag
    appends to a list. In a `path`, a leading ~ is the home folder. `bounds` are pydantic's ge, gt,
    le and lt.
    """
    extra: Any = {
        "group": group,
        "trains": trains,
        "positional": positional,
        "repeatable": repeatable,
        "path": path,
    }
    limits: Any = bounds
    return Field(
        default, description=description, validate_default=True, json_schema_extra=extra, **limits
    )


class Options(BaseModel):
    """Base of every program's config: frozen, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    aliases: ClassVar[Mapping[str, str]] = {}  # other names of options
    # Booleans that a validator translates; not in --help.
    legacy_flags: ClassVar[Sequence[str]] = ()
    # Flags of other programs that have no counterpart, and what to do instead.
    answers: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def translate(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Return the options of a YAML file that may be one of another program."""
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _yaml_bool_as_word(cls, value: Any, info: Any) -> Any:
        """Turn False back into `off` where that is a choice: YAML 1.1 reads a bare off as False."""
        if isinstance(value, bool):
            words = get_args(cls.model_fields[info.field_name].annotation)
            for word in ("on", "yes", "true") if value else ("off", "no", "false"):
                if word in words:
                    return word
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _home_folder(cls, value: Any, info: Any) -> Any:
        """Replace a leading ~ where paths are given; shells leave it in --option=~/file."""
        if not extra(cls.model_fields[info.field_name])["path"]:
            return value
        is_list = isinstance(value, list | tuple)
        return [expand_home(one) for one in value] if is_list else expand_home(value)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def to_yaml(self) -> str:
        """Return all options as YAML in the order of the class."""
        values = self.model_dump(mode="json")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def expand_home(value: Any) -> Any:
    """Return text with a leading ~ or ~user replaced by that home folder; all else unchanged."""
    # Not Path.expanduser, which raises for a user who does not exist.
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111


def load_env_files() -> None:
    """Load .env of the working folder (or above), then of the repository; overrides nothing.

    A leading ~ is the home folder, which no shell has replaced in such a file.
    """
    for path in (find_dotenv(usecwd=True), Path(__file__).resolve().parents[2] / ".env"):
        for name, value in dotenv_values(path).items() if path else ():
            if value is not None:
                os.environ.setdefault(name, expand_home(value))


def read_yaml_values(path: Path) -> dict[str, Any]:
    """Read a flat YAML file; raises ConfigError if it is missing or not one."""
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file")
    values = load_yaml(path) or {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a list of `key: value` lines, this is a {type(values).__name__}"
        )
    return {str(name): value for name, value in values.items()}


def read_yaml(config_class: type[Options], path: Path) -> dict[str, Any]:
    """Read a flat YAML config; raises ConfigError as `read_yaml_values`, and for unknown keys."""
    values = config_class.translate(read_yaml_values(path), str(path))
    for name in values:
        if name not in names_of(config_class):
            raise ConfigError(f"{path}: " + unknown(name, names_of(config_class), "key"))
    return {config_class.aliases.get(name, name): value for name, value in values.items()}


def build(config_class: type[C], values: Mapping[str, Any]) -> C:
    """Validate `values`; raises ConfigError that names each wrong option, value and rule."""
    try:
        return config_class.model_validate(
            {config_class.aliases.get(name, name): value for name, value in values.items()}
        )
    except ValidationError as error:
        lines = [_message(config_class, one) for one in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def extra(field: Any) -> dict[str, Any]:
    """Return what `option` stores with a field: group, trains, positional, repeatable, path."""
    return field.json_schema_extra


def names_of(config_class: type[Options]) -> list[str]:
    """Return the keys that a config accepts, aliases included."""
    return [*config_class.model_fields, *config_class.aliases, *config_class.legacy_flags]


def unknown(word: str, names: Sequence[str], kind: str) -> str:
    """Return the message for an unknown flag or key, with the nearest known one."""
    near = difflib.get_close_matches(word.split("=")[0], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; --help lists them all"
    return f"unknown {kind} {word!r}{hint}"


def _message(config_class: type[Options], error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown(name, names_of(config_class), "option")
    bounds = {
        "greater_than": "is not above",
        "greater_than_equal": "is below",
        "less_than": "is not below",
        "less_than_equal": "is above",
    }
    if error["type"] in bounds:
        (limit,) = error["ctx"].values()
        value = error["input"]
        if isinstance(value, str):
            value = float(value) if "." in value or "e" in value else int(value)
        return f"{name} {value} {bounds[error['type']]} {limit:g}"
    text = error["msg"].removeprefix("Value error, ")
    return f"{name}: {error['input']!r} is not valid: {text}" if name else text
