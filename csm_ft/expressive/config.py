"""Options of `python -m csm_ft.expressive`."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from csm_ft import assets
from csm_ft.config.base import Options, option
from csm_ft.families.template import TextTemplate

PROGRAM = "-m csm_ft.expressive"
DEFAULT_TRAIN_CONFIG = "configs/expressive_lora.yaml"
SWEEP_CONFIG = "configs/sweep_expressive.yaml"


class ExpressiveConfig(Options):
    """All that the steps do not decide by themselves."""

    folders: list[str] = option(
        [], "Data sets, or metadata files.", group="data", path=True, positional=True
    )
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
        "[{speaker}]<{emotion}>?{text}", "What the model reads of a row.", group="data"
    )
    pretokenize_config: str = option(
        "", "YAML file of further options for pretokenize.py.", group="steps", path=True
    )
    train_config: str = option(
        DEFAULT_TRAIN_CONFIG,
        "YAML file of options for train.py.",
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
        f"Search space of that sweep; empty = {SWEEP_CONFIG}.",
        group="steps",
        path=True,
    )
    n_gpus: int = option(1, "GPUs of that sweep.", group="steps", ge=1)
    num_sentences: int = option(
        4, "Sentences that are spoken with every tag.", group="steps", ge=1, le=16
    )

    @property
    def train_file(self) -> str:
        """The file of train_config; the default one is found from any folder."""
        return _found(self.train_config, DEFAULT_TRAIN_CONFIG)

    @property
    def sweep_file(self) -> str:
        """The file of sweep_config, likewise."""
        return _found(self.sweep_config or SWEEP_CONFIG, SWEEP_CONFIG)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.folders:
            raise ValueError(f"no data: python {PROGRAM} RAVDESS CREMA-D --output exp/expressive")
        if not TextTemplate(self.text_template).columns:
            raise ValueError(
                f"text_template {self.text_template!r} has no tag; write it like"
                " '[{speaker}]<{emotion}>?{text}'"
            )
        if self.sweep_config and not self.sweep:
            raise ValueError("sweep_config goes with --sweep N")
        return self


def _found(name: str, default: str) -> str:
    """Return a file; the one that is installed where the default is not in this folder."""
    is_installed = name == default and not Path(name).is_file()
    return str(assets.path_of(default)) if is_installed else name
