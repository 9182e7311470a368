"""The options of sweep.py: its own, and every option of train.py, shared by all trials."""

import math
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import create_model, field_validator, model_validator

from csm_ft.cli import read_values
from csm_ft.config.base import Options, build, option
from csm_ft.config.train import SWEEP_WANDB_PROJECT, TrainConfig
from csm_ft.config.yaml_file import load_yaml
from csm_ft.families import choose_family, open_family
from csm_ft.schedule import Duration
from csm_ft.sweep.confirm import Confirm
from csm_ft.sweep.constraints import Constraint, parse_all
from csm_ft.sweep.wandb_space import is_wandb, not_used, options_of

DESCRIPTION = (
    "Search hyper-parameters: trials of train.py over all GPUs (or on the CPU), a best config,"
    " samples and a report. The same command resumes a sweep that was stopped; a larger --n_trials"
    " extends the study. Every option of train.py is accepted, too: it is the same for all trials"
    " or, where the sweep config searches it, the value of trial 0."
)
DEFAULT_SPACE = "configs/sweep.yaml"
MOST_VALIDATIONS = 100


class SweepConfig(Options):
    """Options of sweep.py itself."""

    sweep_config: str = option(
        DEFAULT_SPACE,
        "YAML file with the search space; another family than csm has one of its own, in configs/.",
        group="sweep",
        path=True,
    )
    n_trials: int = option(
        20, "Trials in the study, counted over all calls of this command.", group="sweep", ge=1
    )
    n_gpus: int = option(1, "GPUs to use; without a GPU, workers on the CPU.", group="sweep", ge=1)
    gpus: list[str] = option(
        [],
        "Which GPUs, as 0,3, in place of the first n_gpus; repeatable, or a list with commas.",
        group="sweep",
        repeatable=True,
    )
    trials_per_gpu: str = option(
        "1",
        "Trials at the same time on each GPU; auto = more while throughput grows and memory fits.",
        group="sweep",
    )
    gpus_per_trial: int = option(
        1,
        "GPUs that train each trial together, as --parallel says (auto = ddp); on the CPU, so many"
        " processes.",
        group="sweep",
        ge=1,
    )
    packed_lora: int = option(
        1,
        "With method lora: trials at the same time in each worker, on one copy of the frozen base"
        " and with one pass for all.",
        group="sweep",
        ge=1,
    )
    cluster: str = option(
        "",
        "Run trials on all nodes of a Ray cluster: auto = the one that this machine is in, or its"
        " address (docs/cluster.md).",
        group="sweep",
    )
    cluster_resources: list[str] = option(
        [],
        "What a trial takes of its node besides its GPU, as CPU=4 or slot=1 of Ray's resources;"
        " repeatable, or a list with commas.",
        group="sweep",
        repeatable=True,
    )
    cluster_copy: bool = option(
        False,
        "For nodes that share no folder: copy data to them, and runs back.",
        group="sweep",
    )
    study_name: str = option(
        "csm-sweep", "Name of the study, and the W&B group of its trials.", group="sweep"
    )
    output_dir: str = option(
        "./sweep", "Folder of the study; the same folder resumes it.", group="sweep", path=True
    )
    storage: str = option(
        "",
        "Copy the study to this database, too, as postgresql://user@host/name; the journal in the"
        " folder stays what counts.",
        group="sweep",
    )
    status: str = option(
        "",
        "Tell how the sweep in this folder stands: counts, best, running trials, failures. Starts"
        " nothing.",
        group="sweep",
        path=True,
    )
    stop: str = option(
        "",
        "End the sweep that runs in this folder as Ctrl-C would: running trials are saved, and the"
        " same command resumes them.",
        group="sweep",
        path=True,
    )
    dry_run: bool = option(
        False,
        "Only tell the plan: trials, time where it is known, disk and memory. Starts and writes"
        " nothing.",
        group="sweep",
    )
    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"] = option(
        "tpe",
        "Where to look next: by the results so far (tpe, gp = a Gaussian process, cmaes),"
        " evenly spread (qmc), anywhere (random), or at every setting (grid).",
        group="sweep",
    )
    startup_trials: int = option(
        8, "Trials before tpe or gp takes over from random draws.", group="sweep", ge=0
    )
    warm_from: list[str] = option(
        [],
        "Folders of earlier sweeps, of which a new study tries the best three settings early;"
        " repeatable, or a list with commas.",
        group="sweep",
        repeatable=True,
        path=True,
    )
    confirm: str = option(
        "",
        "Seeds that tell luck from gain, as 3x2: the default and, at the end, the best three run"
        " again with two more seeds each, all to the end; 0x2 = the default alone.",
        group="sweep",
    )
    max_hours: float = option(
        0.0,
        "Hours that the sweep may run, counted over all calls of this command; then running trials"
        " are saved. 0 = no limit.",
        group="sweep",
        ge=0,
    )
    gpu_hours: float = option(
        0.0,
        "The same for GPU-hours: the time of all trials, divided by trials_per_gpu (auto: by 1) and"
        " packed_lora.",
        group="sweep",
        ge=0,
    )
    plateau: int = option(
        0,
        "Try no more settings when so many trials in a row brought nothing beyond the noise;"
        " 0 = never.",
        group="sweep",
        ge=0,
    )
    repeat_seeds: bool = option(
        False,
        "When all settings of the space have been tried, repeat the best third with other seeds.",
        group="sweep",
    )
    pruner: Literal["asha", "hyperband", "median", "none"] = option(
        "asha",
        "asha = stop the trials that are behind at a rung; hyperband = the same, where some trials"
        " have later rungs only or none; median = stop those that fall behind the median; none ="
        " run all to the end.",
        group="sweep",
    )
    stop_margin: str = option(
        "0",
        "How far behind the best 1/eta a trial may be at a rung and still continue, in the unit of"
        " best_by; auto = one standard error over the validation clips, by trial 0.",
        group="sweep",
    )
    eta: int = option(
        3,
        "At each rung the best 1/eta of the trials continue; --pruner none lets all of them.",
        group="sweep",
        ge=2,
    )
    rungs: list[str] = option(
        ["1/9", "1/3"],
        "Where trials are compared, as shares of the run in examples seen.",
        group="sweep",
    )
    constraint: list[str] = option(
        [],
        "Condition that the best trial must meet, as cer<=0.1 or similarity>=0.7: any metric of"
        " validation or, with judge_every, any judged number; repeatable, or a list with commas.",
        group="sweep",
        repeatable=True,
    )
    max_attempts: int = option(
        3, "Worker deaths without progress before a trial is set aside.", group="sweep", ge=1
    )
    hang_sec: float = option(
        0.0,
        "Seconds without a sign of life after which a worker counts as hanging and is killed; 0 ="
        " 10 times its median step, at least 120. Loading, judging and saving may take 1800.",
        group="sweep",
        ge=0,
    )
    seed: int = option(0, "Seed of the sampler, and of every trial.", group="run")
    wandb_project: str = option(
        SWEEP_WANDB_PROJECT,
        "W&B project; a project in W&B's own settings wins over the default.",
        group="tracking",
    )
    gen_every: str = option(
        "1/3",
        "Generate samples (train.py's units), and at the last step; 0 disables.",
        group="schedule",
    )
    save_every: str = option(
        "1/9",
        "Save a checkpoint that a killed trial resumes from (same units); 0 = only at its end.",
        group="schedule",
    )

    @field_validator("rungs", mode="before")
    @classmethod
    def _one_rung(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int | float) else value

    @field_validator("constraint", mode="before")
    @classmethod
    def _constraints(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        return [str(one) for one in parse_all([str(text) for text in texts])]

    @field_validator("confirm")
    @classmethod
    def _confirm(cls, value: str) -> str:
        return str(Confirm.parse(value)) if value.strip() else ""

    @field_validator("gpus", "cluster_resources", "warm_from", mode="before")
    @classmethod
    def _each(cls, value: Any) -> Any:
        texts = value if isinstance(value, list) else [value]
        return [one.strip() for text in texts for one in str(text).split(",")]

    @field_validator("trials_per_gpu")
    @classmethod
    def _positive_or_auto(cls, value: str) -> str:
        if value != "auto" and not (value.isdecimal() and int(value) >= 1):
            raise ValueError("write a whole number from 1 on, or auto")
        return value

    @field_validator("stop_margin")
    @classmethod
    def _margin_or_auto(cls, value: str) -> str:
        if value != "auto" and not re.fullmatch(r"\d*\.?\d+(e-?\d+)?", value):
            raise ValueError("write a number from 0 on, or auto")
        return value

    @field_validator("study_name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is empty; give the study a name")
        return value

    @model_validator(mode="after")
    def _rising_rungs(self) -> Self:
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

    @field_validator("cluster_resources")
    @classmethod
    def _amount_of_each(cls, values: list[str]) -> list[str]:
        for value in values:
            name, _, amount = value.partition("=")
            is_number = re.fullmatch(r"\d*\.?\d+", amount) and float(amount) > 0
            if name in ("", "GPU") or not is_number:
                raise ValueError(
                    "write NAME=AMOUNT, as CPU=4; of GPUs, each trial takes 1/trials_per_gpu"
                )
        return values

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.cluster and (self.gpus or self.n_gpus > 1 or self.is_packing):
            raise ValueError(
                "cluster: all fitting nodes are used; drop --n_gpus, --gpus and --trials_per_gpu"
                " auto, or choose nodes by --cluster_resources"
            )
        if not self.cluster and (self.cluster_resources or self.cluster_copy):
            raise ValueError("cluster_resources and cluster_copy need --cluster auto or an address")
        return self

    @model_validator(mode="after")
    def _lanes_of_one_process(self) -> Self:
        if self.packed_lora > 1 and (self.cluster or self.gpus_per_trial > 1 or self.is_packing):
            raise ValueError(
                f"packed_lora {self.packed_lora}: its trials share one process on this machine;"
                " drop --cluster, --gpus_per_trial and --trials_per_gpu auto, or --packed_lora"
            )
        return self

    @model_validator(mode="after")
    def _whole_groups_of_gpus(self) -> Self:
        size = self.gpus_per_trial
        if size > 1 and self.trials_per_gpu != "1":
            raise ValueError(
                f"gpus_per_trial {size} and trials_per_gpu {self.trials_per_gpu} contradict each"
                " other: a GPU is a part of one trial, or shared by several; drop one of the two"
            )
        if not self.cluster and self.num_gpus % size:
            name = "gpus" if self.gpus else "n_gpus"
            raise ValueError(
                f"gpus_per_trial {size} does not divide the {self.num_gpus} of {name}; use"
                f" --{name} with a multiple of {size}"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """GPUs that are asked for; workers on the CPU where there is none."""
        return len(self.gpus) or self.n_gpus

    @property
    def cluster_amounts(self) -> dict[str, float]:
        """What a trial takes of its node, by Ray's names."""
        pairs = [value.partition("=") for value in self.cluster_resources]
        return {name: float(amount) for name, _, amount in pairs}

    @property
    def is_packing(self) -> bool:
        """Whether the number of workers that share a GPU is found by measuring."""
        return self.trials_per_gpu == "auto"

    @property
    def workers_per_gpu(self) -> int:
        """Workers that share a GPU, at first."""
        return 1 if self.is_packing else int(self.trials_per_gpu)

    @property
    def seeds_to_confirm(self) -> Confirm | None:
        """Which settings run again with other seeds; None = none."""
        return Confirm.parse(self.confirm) if self.confirm else None

    @property
    def constraints(self) -> list[Constraint]:
        """What the best trial must meet."""
        return parse_all(self.constraint)

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
        # Over a common denominator every rung is a whole number of parts, and the end is all of
        # them: the largest step that divides each is their greatest common divisor.
        bottom = math.lcm(*(share.denominator for share in self.rung_shares))
        parts = [int(share * bottom) for share in self.rung_shares]
        return Fraction(math.gcd(bottom, *parts), bottom)


# Options of both programs; the sweep's default goes to the trials.
SHARED = ("seed", "wandb_project", "gen_every", "save_every")
SET_BY_SWEEP: Mapping[str, str] = {
    "val_every": "all trials are validated at the same numbers of examples seen",
    "best_from": "the best is counted from the first rung on",
    "measure_base": "the untrained model is measured once for all trials",
    "keep_last": "a trial keeps one checkpoint to resume from",
    "judge_best": "where trials are judged, only a judged validation is the best",
    "extend": "trials are new runs; a larger --n_trials prolongs a study",
    "resume": "the same command resumes; another --output_dir starts a new study",
    "wandb_group": "it is the study's name",
    "wandb_name": "it is the study's name and the trial's number",
}


@dataclass(frozen=True)
class SweepRequest:
    """One parsed command: the sweep's options, and those that all trials share."""

    sweep: SweepConfig
    train_class: type[TrainConfig]
    # Options of train.py named by a flag or in the YAML of --config, not yet validated.
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]  # the sweep's defaults of options that both programs have
    argv: Sequence[str] = ()  # the command line


def options_class(train_class: type[TrainConfig]) -> type[Options]:
    """Return the class of everything that sweep.py accepts, its own options first."""
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
    family = choose_family(argv)
    train_class = open_family(family).train_config
    values = read_values(
        options_class(train_class), argv, program="sweep.py", description=DESCRIPTION
    )
    values = {"sweep_config": train_class.search_space, **values}
    values = {**_of_space(str(values.get("sweep_config", ""))), **values}
    own = {name: value for name, value in values.items() if name in SweepConfig.model_fields}
    sweep = build(SweepConfig, own)
    given = {name: value for name, value in values.items() if name not in own or name in SHARED}
    for name in [name for name in given if name in SET_BY_SWEEP]:
        _warn(f"{name} {given.pop(name)} is not used: in a sweep, {SET_BY_SWEEP[name]}")
    given["family"] = family
    return SweepRequest(
        sweep,
        train_class,
        given,
        defaults={name: getattr(sweep, name) for name in SHARED},
        argv=argv,
    )


def _of_space(path: str) -> dict[str, Any]:
    """Return the options of sweep.py that a search space in W&B's format has besides."""
    if not Path(path).is_file() or not is_wandb(document := load_yaml(Path(path))):
        return {}
    if names := not_used(document):
        _warn(f"{path}: {', '.join(names)} of W&B's sweep: not used here")
    return options_of(Path(path), document)


def _warn(text: str) -> None:
    from csm_ft.console import console  # here, so that --help is quick

    console.print(f"[yellow]{text}[/]")
