"""The model families: the only place where a family's name decides anything. Imports no torch.

Adding a family is adding a package here and one `case` in open_family.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from csm_ft import cli
from csm_ft.config.base import build, names_of, read_yaml, read_yaml_values
from csm_ft.config.train import TrainConfig
from csm_ft.errors import ConfigError

if TYPE_CHECKING:
    from csm_ft.families.base import Family

DEFAULT_FAMILY = "csm"


def open_family(name: str) -> "Family":
    """Return a family; ConfigError if there is none of that name."""
    match name:
        case "csm":
            from csm_ft.families.csm.family import CsmFamily

            return CsmFamily()
        case "moonshine":
            from csm_ft.families.moonshine.family import MoonshineFamily

            return MoonshineFamily()
        case "moshi":
            from csm_ft.families.moshi.family import MoshiFamily

            return MoshiFamily()
        case _:
            raise ConfigError(f"family {name!r} is not known; choose among {', '.join(names())}")


def names() -> list[str]:
    """Return the names of all families: the packages of this folder."""
    return [module.name for module in iter_modules(__path__) if module.ispkg]


def named_family(argv: Sequence[str]) -> str:
    """Return the family that a command line names by --family, or the default one.

    ConfigError for a flag that only other families have.
    """
    family = cli.peek(argv, ("family",)).get("family", "auto")
    return _with_flags(DEFAULT_FAMILY if family == "auto" else family, argv)


def choose_family(argv: Sequence[str]) -> str:
    """Return the family of a command line: by --family, by the token file, or the default.

    ConfigError as named_family. No file is opened for a command line that asks for help.
    """
    values = cli.peek(argv, ("family", "data"))
    if values.get("family", "auto") != "auto" or cli.wants_help(argv):
        return named_family(argv)
    data = values.get("data", TrainConfig.model_fields["data"].default)
    return _with_flags(family_of_file(data), argv)


def _with_flags(family: str, argv: Sequence[str]) -> str:
    """Return the family; ConfigError, with their name, for a flag that only others have."""
    flags = {name: _flags(name) for name in names()}
    for name in (word.removeprefix("--").split("=")[0] for word in argv if word.startswith("--")):
        owners = [owner for owner, known in flags.items() if name in known]
        if family in flags and owners and family not in owners:
            raise ConfigError(
                f"--{name}: an option of the family {' and of '.join(owners)}, not of {family};"
                " name the family with --family, or leave the option out"
            )
    return family


def _flags(family: str) -> set[str]:
    """Return the flags of a family's options, with those that are answered with a way out."""
    halves = (open_family(family).train_config, open_family(family).pretokenize_config)
    return {name for half in halves for name in (*names_of(half), *half.answers)}


def family_of_file(path: str | None) -> str:
    """Return the family that a token file names; the default one if it names none."""
    from csm_ft.data.token_file import family_of

    return (family_of(Path(path)) if path else "") or DEFAULT_FAMILY


def read_config(path: Path) -> TrainConfig:
    """Read the config.yaml of a run as its family's config."""
    family = open_family(str(read_yaml_values(path).get("family", DEFAULT_FAMILY)))
    return build(family.train_config, read_yaml(family.train_config, path))


def build_config(values: Mapping[str, Any]) -> TrainConfig:
    """Validate a complete config, as it stands in a run's config.yaml."""
    return build(open_family(str(values["family"])).train_config, values)
