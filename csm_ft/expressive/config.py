"""Options of `python -m csm_ft.expressive`."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from csm_ft import assets
from csm_ft.config.base import Options, option
from csm_ft.config.yaml_file import load_yaml
from csm_ft.families import DEFAULT_FAMILY, open_family
from csm_ft.families.base import ExpressiveRecipe
from csm_ft.families.template import TextTemplate

PROGRAM = "-m csm_ft.expressive"


class ExpressiveConfig(Options):
    """All that the steps do not decide by themselves."""

    folders: list[str] = option(
        [], "Data sets, or metadata files.", group="data", path=True, positional=True
    )
    family: str = option(DEFAULT_FAMILY, "Model family that speaks.", group="data")
    output: str = option("exp/expressive", "Folder of all that is made.", group="data", path=True)
    map: list[str] = option(
        [],
        "Merge emotions of all sets, OLD=NEW, as calm=neutral; repeat for more.",
        group="data",
        repeatable=True,
    )
    balance: str = option(
        "emotion",
        "What is drawn equally often: emotion, speaker, source or hours; none = all clips alike.",
        group="data",
    )
    text_template: str = option(
        "",
        "What the model reads of a row; empty = as the family does: [{speaker}]<{emotion}>?{text}"
        " of CSM, <{emotion}>?{text} of Moshi.",
        group="data",
    )
    pretokenize_config: str = option(
        "",
        "YAML file of further options for pretokenize.py; empty = the family's, if it has one.",
        group="steps",
        path=True,
    )
    train_config: str = option(
        "",
        "YAML file of options for train.py; empty = the family's, configs/expressive_lora.yaml of"
        " CSM.",
        group="steps",
        path=True,
    )
    evaluate_config: str = option(
        "",
        "YAML file of options for csm_ft.evaluate, such as its judges.",
        group="steps",
        path=True,
    )
    sweep: int = option(
        0, "Trials of a sweep in place of one training; 0 = one training.", group="steps", ge=0
    )
    sweep_config: str = option(
        "",
        "Search space of that sweep; empty = the family's, configs/sweep_expressive.yaml of CSM.",
        group="steps",
        path=True,
    )
    n_gpus: int = option(1, "GPUs of that sweep.", group="steps", ge=1)
    num_sentences: int = option(
        4, "Sentences that are spoken with every tag.", group="steps", ge=1, le=16
    )

    @property
    def recipe(self) -> ExpressiveRecipe:
        """What the family runs the steps with."""
        recipe = open_family(self.family).expressive
        assert recipe is not None, "checked"
        return recipe

    @property
    def template(self) -> str:
        """The template of the text."""
        return self.text_template or self.recipe.text_template

    @property
    def pretokenize_file(self) -> str:
        """The file of options for pretokenize.py, "" = none."""
        return self.pretokenize_config or _found(self.recipe.pretokenize_config)

    @property
    def train_file(self) -> str:
        """The file of options for train.py."""
        return self.train_config or _found(self.recipe.train_config)

    @property
    def sweep_file(self) -> str:
        """The search space."""
        return self.sweep_config or _found(self.recipe.sweep_config)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.folders:
            raise ValueError(f"no data: python {PROGRAM} RAVDESS CREMA-D --output exp/expressive")
        if open_family(self.family).expressive is None:
            raise ValueError(
                f"family {self.family}: emotions are tags in the texts that a model speaks, and"
                " this family speaks none"
            )
        if not TextTemplate(self.template).columns:
            raise ValueError(
                f"text_template {self.text_template!r} has no tag; write it like"
                f" {self.recipe.text_template!r}"
            )
        if self.sweep_config and not self.sweep:
            raise ValueError("sweep_config goes with --sweep N")
        return self

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        for path in filter(None, (self.pretokenize_config, self.train_config)):
            named = (load_yaml(Path(path)) or {}).get("family", self.family)
            if named != self.family:
                raise ValueError(
                    f"{path} is for the family {named}, not {self.family}; add --family {named}, or"
                    " name another file"
                )
        return self


def _found(name: str) -> str:
    """Return a file of the product; the one that is installed where it is not in this folder."""
    is_installed = name and not Path(name).is_file()
    return str(assets.path_of(name)) if is_installed else name
