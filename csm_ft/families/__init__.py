"""The model families; the only place where a family's name decides anything.

Importing this package imports no torch.
"""

from typing import TYPE_CHECKING

from csm_ft.config import TrainConfig

if TYPE_CHECKING:
    from csm_ft.data.examples import Examples
    from csm_ft.data.split import Split
    from csm_ft.families.base import Family


def config_class(family: str = "csm") -> type[TrainConfig]:
    """Return the config class of a family: the common options and its own."""
    assert family == "csm", f"unknown family {family}"  # pydantic has checked the name
    from csm_ft.families.csm.config import CsmConfig

    return CsmConfig


def arrange(split: "Split", config: TrainConfig, *, evaluate: bool = False) -> "Examples":
    """Return the examples that a split is to the family of `config`.

    `evaluate` = those that the yardstick scores. Imports no torch.
    """
    from csm_ft.families.csm.arrange import arrange_csm
    from csm_ft.families.csm.config import CsmConfig

    assert isinstance(config, CsmConfig), f"unknown family {config.family}"
    return arrange_csm(split, config, evaluate=evaluate)


def open_family(family: str = "csm") -> "Family":
    """Return a family's functions; imports torch."""
    assert family == "csm", f"unknown family {family}"
    from csm_ft.families.csm.family import CsmFamily

    return CsmFamily()
