"""Command lines built from config classes: flags, --help and option tables."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from csm_ft.config.base import (
    Options,
    build,
    expand_home,
    extra,
    load_env_files,
    names_of,
    read_yaml,
    read_yaml_values,
    unknown,
)
from csm_ft.errors import ConfigError, UserError

C = TypeVar("C", bound=Options)


def run_program(program: Callable[[], int]) -> int:
    """Run a program and return its exit code: 2 after a UserError, 130 after Ctrl-C.

    The message of a UserError is printed; any other exception is a bug and keeps its traceback.
    """
    load_env_files()
    try:
        return program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse_args(config_class: type[C], argv: Sequence[str], *, program: str, description: str) -> C:
    """Parse `argv` into a config; `--help` prints all options and exits.

    Raises ConfigError for an unknown flag or key, a bad value or a bad combination.
    """
    values = read_values(config_class, argv, program=program, description=description)
    return build(config_class, values)


def read_values(
    config_class: type[Options], argv: Sequence[str], *, program: str, description: str
) -> dict[str, Any]:
    """Return the values from flags and YAML, not yet validated; flags override YAML."""
    parser = _parser(config_class, program, description)
    takes_words = any(extra(field)["positional"] for field in config_class.model_fields.values())
    # Intermixed: arguments without a flag may stand before and after options.
    if takes_words:
        known, rest = parser.parse_known_intermixed_args(list(argv))
    else:
        known, rest = parser.parse_known_args(_with_config(argv))
    if rest:
        raise ConfigError(_unknown_argument(rest[0], config_class))
    flags = vars(known)
    path = flags.pop("config", None)
    values = read_yaml(config_class, Path(expand_home(path))) if path else {}
    return {**values, **flags}


def peek(argv: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the values of a few options, from flags or from the YAML file of --config.

    The config class depends on the model family and the token file, which are read this way first.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("config", *names):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    try:
        flags = vars(parser.parse_known_args(_with_config(argv))[0])
    except argparse.ArgumentError:  # a flag without its value: the full parser reports it
        return {}
    path = flags.pop("config", None)
    values = read_yaml_values(Path(expand_home(path))) if path else {}
    # Sections of other programs' files are no values.
    values = {name: value for name, value in values.items() if not isinstance(value, dict)}
    found = {name: str(value) for name, value in {**values, **flags}.items() if name in names}
    return {name: expand_home(value) for name, value in found.items()}


def _with_config(argv: Sequence[str]) -> list[str]:
    """Take a YAML file that is the only argument for the value of --config."""
    is_yaml = len(argv) == 1 and argv[0].lower().endswith((".yaml", ".yml"))
    return ["--config", *argv] if is_yaml and not argv[0].startswith("-") else list(argv)


def _unknown_argument(word: str, config_class: type[Options]) -> str:
    if word.startswith("-"):
        answer = config_class.answers.get(word.lstrip("-").split("=")[0])
        if answer:
            return f"{word}: {answer}"
        return unknown(word, [f"--{name}" for name in names_of(config_class)], "flag")
    way_out = "options are --name value"
    if word.lower().endswith((".yaml", ".yml")):
        way_out = f"did you mean --config {shlex.quote(word)}?"
    elif word in names_of(config_class):
        way_out = f"did you mean --{word}?"
    return f"unknown argument {word!r}; {way_out}; --help lists all options"


def wants_help(argv: Sequence[str]) -> bool:
    """Tell whether a command line asks for help, so that no file needs to be opened."""
    return "--help" in argv or "-h" in argv


def option_table(config_class: type[Options]) -> str:
    """Return the options as a Markdown table, group by group as in --help."""
    rows = ["| option | default | what it does |", "|---|---|---|"]
    fields = config_class.model_fields
    groups = list(dict.fromkeys(extra(field)["group"] for field in fields.values()))
    for name in sorted(fields, key=lambda name: groups.index(extra(fields[name])["group"])):
        default = _default(fields[name])
        text = (fields[name].description or "").replace("<", "&lt;")
        rows.append(f"| `{name}` | {default and f'`{default}`'} | {text} |")
    return "\n".join(rows)


def _parser(config_class: type[Options], program: str, description: str) -> argparse.ArgumentParser:
    positional = [
        name for name, field in config_class.model_fields.items() if extra(field)["positional"]
    ]
    # argparse would name fifty options in the usage line.
    usage = " ".join(["python", program, *(name.upper() for name in positional)])
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{usage} [--option value ...]",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config", metavar="YAML", help="flat YAML file with any of these options; flags win"
    )
    groups: dict[str, Any] = {}
    for name, field in config_class.model_fields.items():
        title = extra(field)["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        spellings, keywords = _argument(name, field, config_class.aliases)
        groups[title].add_argument(*spellings, **keywords)
    for name in config_class.legacy_flags:
        parser.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    return parser


def _argument(
    name: str, field: Any, aliases: Mapping[str, str]
) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments of argparse's add_argument for one option."""
    default = _default(field)
    shown = f" (default: {default})" if default else ""
    text = ((field.description or "") + shown).replace("%", "%%")
    if extra(field)["positional"]:
        nargs = "*" if str(field.annotation).startswith("list") else "?"
        return [name], {"metavar": name.upper(), "help": text, "nargs": nargs}
    keywords: dict[str, Any] = {"metavar": _metavar(field), "help": text, "dest": name}
    if field.annotation is bool:
        keywords |= {"nargs": "?", "const": "true"}
    elif extra(field)["repeatable"]:
        keywords |= {"action": "append"}
    elif str(field.annotation).startswith("list"):
        keywords |= {"nargs": "+", "action": "extend"}  # a flag given twice keeps both
    other_names = [alias for alias, meant in aliases.items() if meant == name]
    return [f"--{spelling}" for spelling in (name, *other_names)], keywords


def _metavar(field: Any) -> str:
    words = [str(word) for word in get_args(field.annotation) if isinstance(word, str)]
    if words:
        return "{" + ",".join(words) + "}"
    return {bool: "true|false", int: "N", float: "X"}.get(field.annotation, "S")


def _default(field: Any) -> str:
    """Return the default as it is typed on a command line; "" for an empty one."""
    default = field.get_default(call_default_factory=True)
    return " ".join(default) if isinstance(default, list) else json.dumps(default).strip('"')
