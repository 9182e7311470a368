"""The command line of each program, made from its config class.

Flags, --help, and the tables of the README.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from csm_ft.config import (
    ConfigError,
    Options,
    TrainConfig,
    build,
    extra,
    names_of,
    read_yaml,
    unknown,
)

C = TypeVar("C", bound=Options)


def parse_args(config_class: type[C], argv: Sequence[str], *, program: str, description: str) -> C:
    """Parse `argv` into one config.

    Raises ConfigError for an unknown flag or key, a bad value or a bad combination; `--help` prints
    every option and exits.
    """
    return build(
        config_class, read_values(config_class, argv, program=program, description=description)
    )


def read_values(
    config_class: type[Options], argv: Sequence[str], *, program: str, description: str
) -> dict[str, Any]:
    """Return what YAML and flags say, flags first, not yet validated.

    The path of the YAML file stands under `config`.
    """
    parser = _parser(config_class, program, description)
    known, rest = parser.parse_known_args(list(argv))
    if rest:
        raise ConfigError(unknown(rest[0], [f"--{n}" for n in names_of(config_class)], "flag"))
    flags = vars(known)
    path = flags.pop("config", None)
    values = {**(read_yaml(config_class, Path(path)) if path else {}), **flags}
    return values | ({"config": path} if path and "config" in config_class.model_fields else {})


def flag_table(config_class: type[Options]) -> str:
    """Return the options as a Markdown table, group by group as in --help, for the README."""
    rows = ["| option | default | what it does |", "|---|---|---|"]
    groups = list(
        dict.fromkeys(extra(field)["group"] for field in config_class.model_fields.values())
    )
    for name, field in sorted(
        config_class.model_fields.items(), key=lambda item: groups.index(extra(item[1])["group"])
    ):
        default, text = _default(field), (field.description or "").replace("<", "&lt;")
        rows.append(f"| `{name}` | {default and f'`{default}`'} | {text} |")
    return "\n".join(rows)


def _parser(config_class: type[Options], program: str, description: str) -> argparse.ArgumentParser:
    usage = (  # naming fifty options here would hide what follows
        f"python {program} [--option value ...]"
    )
    parser = argparse.ArgumentParser(
        prog=program,
        usage=usage,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="flat YAML file with any of these options; flags win over it",
    )
    groups: dict[str, Any] = {}
    spellings = {name: [name] for name in config_class.model_fields}
    for alias, name in config_class.aliases.items():
        spellings[name].append(alias)
    for name, field in config_class.model_fields.items():
        if name == "config":
            continue
        group = extra(field)["group"]
        groups.setdefault(group, parser.add_argument_group(group) if group not in groups else None)
        default = _default(field)
        shown = f" (default: {default})" if default else ""
        keywords: dict[str, Any] = {
            "metavar": _metavar(field),
            "help": ((field.description or "") + shown).replace("%", "%%"),
            "dest": name,
        }
        if field.annotation is bool:
            keywords |= {"nargs": "?", "const": "true"}
        elif str(field.annotation).startswith("list"):
            keywords |= {"nargs": "+"}
        groups[group].add_argument(*(f"--{s}" for s in spellings[name]), **keywords)
    if issubclass(config_class, TrainConfig):
        parser.add_argument("--use_amp", nargs="?", const="true", help=argparse.SUPPRESS)
    return parser


def _metavar(field: Any) -> str:
    words = [str(w) for w in get_args(field.annotation) if isinstance(w, str)]
    if words:
        return "{" + ",".join(words) + "}"
    return {bool: "true|false", int: "N", float: "X"}.get(field.annotation, "S")


def _default(field: Any) -> str:
    """Return the default as one types it; empty for an empty one."""
    default = field.get_default(call_default_factory=True)
    return " ".join(default) if isinstance(default, list) else json.dumps(default).strip('"')
