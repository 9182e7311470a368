"""What sweep.py can be told.

Its own options, and every option of train.py as a value that all trials share.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import create_model, field_validator, model_validator

from csm_ft.cli import read_values
from csm_ft.config import Options, TrainConfig, build, option
from csm_ft.console import console
from csm_ft.families import config_class
from csm_ft.schedule import Duration

DESCRIPTION = (
    "Search hyper-parameters: trials of train.py over all GPUs (or on the CPU), a best config,"
    " recordings and a report. The same command goes on where it was stopped; a larger --n_trials"
    " extends the study. Every option of train.py is accepted, too: it is the same for all trials"
    " or, where the sweep config searches it, the value of trial 0."
)
DEFAULT_SPACE = "configs/sweep.yaml"
MOST_VALIDATIONS = 100


class SweepConfig(Options):
    """Options of sweep.py itself."""

    sweep_config: str = option(DEFAULT_SPACE, "YAML file with the search space.", group="sweep")
    n_trials: int = option(
        20, "Trials in the study, counted over all calls of this command.", group="sweep"
    )
    n_gpus: int = option(1, "GPUs to use; without a GPU, workers on the CPU.", group="sweep")
    trials_per_gpu: int = option(1, "Trials at the same time on each GPU.", group="sweep")
    study_name: str = option(
        "csm-sweep", "Name of the study, and the W&B group of its trials.", group="sweep"
    )
    output_dir: str = option(
        "./sweep", "Folder of the study; the same folder goes on with it.", group="sweep"
    )
    sampler: Literal["tpe", "random"] = option(
        "tpe", "Where to look next: by what was found so far, or anywhere.", group="sweep"
    )
    startup_trials: int = option(
        8, "Trials before tpe takes over from random draws.", group="sweep"
    )
    pruner: Literal["asha", "none"] = option(
        "asha",
        "asha = stop the trials that are behind at a rung; none = run all to the end.",
        group="sweep",
    )
    eta: int = option(3, "At each rung the best 1/eta of the trials go on.", group="sweep")
    rungs: list[str] = option(
        ["1/9", "1/3"],
        "Where trials are compared, as shares of the run in examples seen.",
        group="sweep",
    )
    max_attempts: int = option(
        3, "Worker deaths without progress before a trial is set aside.", group="sweep"
    )
    seed: int = option(0, "Seed of the sampler, and of every trial.", group="run")
    wandb_project: str = option("csm-sweep", "W&B project.", group="tracking")
    gen_every: str = option(
        "1/3",
        "Speak the gen_sentences (in train.py's units); the last step is always heard unless 0.",
        group="now and then",
    )
    save_every: str = option(
        "1/9",
        "Save what a killed trial goes on from (same units); 0 = only at its end.",
        group="now and then",
    )

    @field_validator("rungs", mode="before")
    @classmethod
    def _one_rung(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int | float) else value

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("n_trials", "n_gpus", "trials_per_gpu", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not at least 1")
        if self.startup_trials < 0:
            raise ValueError(f"startup_trials {self.startup_trials} is below 0")
        if self.eta < 2:
            raise ValueError(
                f"eta {self.eta} is not at least 2; --pruner none lets all trials run to the end"
            )
        if not self.study_name.strip():
            raise ValueError("study_name is empty; give the study a name")
        shares = self.rung_shares
        if not shares or shares != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
            raise ValueError(
                f"rungs {self.rungs} are not rising shares between 0 and 1 of the run, such as"
                " 1/9 1/3"
            )
        if self.validation_share < Fraction(1, MOST_VALIDATIONS):
            raise ValueError(
                f"rungs {self.rungs} need a validation every {self.validation_share} of the run,"
                f" which is more than {MOST_VALIDATIONS}; choose rungs with a larger common part,"
                " such as 1/9 1/3"
            )
        return self

    @property
    def rung_shares(self) -> list[Fraction]:
        """Shares of the run at which trials are compared, without the end."""
        durations = [Duration.parse(text) for text in self.rungs]
        for text, duration in zip(self.rungs, durations, strict=True):
            if duration.unit != "run":
                raise ValueError(f"rungs: {text!r} is not a share of the run; write 1/9 or 10%")
        return [duration.amount for duration in durations]

    @property
    def validation_share(self) -> Fraction:
        """The largest interval between validations that meets every rung and the end of the run."""
        bottom = math.lcm(*(share.denominator for share in self.rung_shares))
        return Fraction(
            math.gcd(bottom, *(int(share * bottom) for share in self.rung_shares)), bottom
        )


SHARED = (
    "seed",
    "wandb_project",
    "gen_every",
    "save_every",
)  # options of both; the sweep's default goes to the trials
SET_BY_SWEEP: Mapping[str, str] = {
    "val_every": "all trials are validated at the same numbers of examples seen",
    "best_from": "the best is counted from the first rung on",
    "measure_base": "the untrained model is measured once for all trials",
    "keep_last": "a trial keeps one checkpoint to go on from",
    "resume": "the same command goes on; another --output_dir begins again",
    "wandb_group": "it is the study's name",
    "wandb_name": "it is the study's name and the trial's number",
}


@dataclass(frozen=True)
class SweepRequest:
    """One parsed command.

    The sweep's options, the options all trials share, and which of the latter the user named.
    """

    sweep: SweepConfig
    train_class: type[TrainConfig]
    given: Mapping[
        str, Any
    ]  # options of train.py named in the YAML of --config or by a flag, not yet validated
    defaults: Mapping[str, Any]  # the sweep's defaults of options that both have


def options_class(family: str = "csm") -> type[Options]:
    """Return the class of everything sweep.py accepts, for its --help and the README.

    Its own options first.
    """
    train_class = config_class(family)
    fields = {
        name: copy(SweepConfig.model_fields.get(name) or train_class.model_fields[name])
        for name in (*SHARED, "output_dir", *SET_BY_SWEEP)
    }
    for name, reason in SET_BY_SWEEP.items():
        fields[name].description = f"Not used: in a sweep, {reason}."
    overrides: dict[str, Any] = {name: (field.annotation, field) for name, field in fields.items()}
    return create_model("SweepOptions", __base__=(train_class, SweepConfig), **overrides)


def parse(argv: Sequence[str]) -> SweepRequest:
    """Parse a command line; ConfigError names the wrong option, its value and the rule."""
    values = read_values(options_class(), argv, program="sweep.py", description=DESCRIPTION)
    train_class = config_class(str(values.get("family", "csm")))
    sweep = build(
        SweepConfig,
        {name: value for name, value in values.items() if name in SweepConfig.model_fields},
    )
    given = {
        name: value
        for name, value in values.items()
        if name not in SweepConfig.model_fields or name in SHARED
    }
    for name in [name for name in given if name in SET_BY_SWEEP]:
        console.print(
            f"[yellow]{name} {given.pop(name)} is not used: in a sweep, {SET_BY_SWEEP[name]}[/]"
        )
    return SweepRequest(
        sweep, train_class, given, defaults={name: getattr(sweep, name) for name in SHARED}
    )
