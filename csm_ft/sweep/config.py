"""The options of sweep.py itself."""

import math
import re
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from csm_ft.config.base import Options, option
from csm_ft.config.train import SWEEP_WANDB_PROJECT
from csm_ft.schedule import Duration
from csm_ft.sweep.confirm import Confirm
from csm_ft.sweep.constraints import Constraint, parse_all

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
