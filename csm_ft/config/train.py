"""Options of train.py that all model families share. Imports neither torch nor a family."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from csm_ft.config.base import extra, option
from csm_ft.config.run import RunOptions
from csm_ft.schedule import Duration

# Defaults of wandb_project, here and of sweep.py: a project in W&B's settings files wins over them.
WANDB_PROJECT, SWEEP_WANDB_PROJECT = SHIPPED_WANDB_PROJECTS = ("csm-finetuning", "csm-sweep")
LORA_LEARNING_RATE = 1.5e-4  # 1e-4 to 2e-4 have worked well
_EQUAL_EXAMPLES = (
    "trials are compared at equal numbers of examples seen; give --n_epochs for all of them"
)


class TrainConfig(RunOptions):
    """Options of every model family; a family adds its own in a subclass (families/<name>/)."""

    legacy_flags: ClassVar[Sequence[str]] = ("use_amp",)
    methods: ClassVar[Sequence[str]] = ("full", "lora")
    search_space: ClassVar[str] = "configs/sweep.yaml"  # of a sweep that names none
    # Options that a sweep cannot search, with the reason; families add theirs.
    not_searchable: ClassVar[Mapping[str, str]] = {
        "data": "trials on other data cannot be compared",
        "family": "models of other families have other validation losses",
        "canary": "trials scored on another canary cannot be compared; give it as a flag for all",
        "seed": "a search over seeds finds luck; the seed is the same for all trials",
        "n_epochs": _EQUAL_EXAMPLES,
        "max_steps": _EQUAL_EXAMPLES,
        "extend": "trials are new runs",
        "val_dtype": "trials measured in other precisions cannot be compared; give it as a flag for"
        " all trials",
        "batch_fill": "it is there for runs of earlier versions",
    }
    # Options that decide how validations measure and in which order examples come, and what runs
    # had that are older than the option. A run keeps its own when it is resumed, and a sweep has
    # one for all trials.
    measured_by: ClassVar[Mapping[str, Any]] = {"val_dtype": "fp32", "batch_fill": "greedy"}

    # Options that change what an example is: trials that differ in them are compared in seconds of
    # audio. Those of validation have other names, and are not searched.
    changes_examples: ClassVar[Sequence[str]] = ("data_fraction",)

    # Optimisation
    n_epochs: float = option(5, "Passes over the training data.", group="optimisation", gt=0)
    max_steps: int = option(0, "Optimiser steps; 0 = use n_epochs.", group="optimisation", ge=0)
    batch_size: int = option(
        8,
        "Examples per batch; an optimiser step takes batch_size * grad_acc_steps examples.",
        group="optimisation",
        gt=0,
    )
    grad_acc_steps: int = option(
        1,
        "Batches per optimiser step; the gradient is that of one large batch.",
        group="optimisation",
        gt=0,
    )
    batch_tokens: int = option(
        0,
        "Padded positions per batch, in place of batch_size; 0 = use batch_size.",
        group="optimisation",
        ge=0,
    )
    batch_fill: Literal["even", "greedy"] = option(
        "even",
        "How batches of batch_tokens are made: even = of similar size, ending where lengths rise;"
        " greedy = each as full as it gets. A resumed run keeps its own.",
        group="optimisation",
    )
    micro_batch_tokens: int = option(
        16384,
        "Maximum padded positions per forward pass; larger batches are split, which does not change"
        " the gradient.",
        group="optimisation",
        trains=False,
        gt=0,
    )
    optimizer: Literal["adamw", "adamw8bit", "schedulefree"] = option(
        "adamw",
        "adamw; adamw8bit = its averages in 8 bits, for less memory; schedulefree = schedule-free"
        " AdamW: no decay (lr_decay is not used); validation, samples and saved weights are of its"
        " averaged weights.",
        group="optimisation",
    )
    learning_rate: float = option(3e-5, "Peak learning rate.", group="optimisation", gt=0)
    warmup_steps: str = option(
        "5%", "Linear warm-up: optimiser steps, or a share of the run (5%).", group="optimisation"
    )
    lr_decay: Literal["linear", "cosine", "constant", "exponential", "wsd"] = option(
        "linear",
        "Decay after warm-up, per optimiser step (wsd: constant, then linear over the last 20 %).",
        group="optimisation",
    )
    min_lr_ratio: float = option(
        0.0,
        "Learning rate at the end of the decay, as a share of the peak (exponential: at least"
        " 0.01).",
        group="optimisation",
        ge=0,
        lt=1,
    )
    weight_decay: float = option(0.002, "AdamW weight decay.", group="optimisation", ge=0)
    decay_all: bool = option(
        False, "Apply weight decay to norms and embeddings, too.", group="optimisation"
    )
    adam_beta1: float = option(0.9, "AdamW beta 1.", group="optimisation", ge=0, lt=1)
    adam_beta2: float = option(0.95, "AdamW beta 2.", group="optimisation", ge=0, lt=1)
    adam_eps: float = option(1e-8, "AdamW epsilon.", group="optimisation", gt=0)
    ema_decay: float = option(
        0.0,
        "Keep a moving average of the trained weights, ema_decay of which stays in each step (as"
        " 0.999); validation, samples and saved weights are of it. 0 = none.",
        group="optimisation",
        ge=0,
        lt=1,
    )
    max_grad_norm: float = option(
        1.3, "Clip the gradient to this norm; 0 disables.", group="optimisation", ge=0
    )

    # What is trained
    method: str = option(
        "full",
        "Which weights are trained: full = all; lora = low-rank adapters, with all other weights"
        " frozen (learning_rate then defaults to 1.5e-4).",
        group="what is trained",
    )
    lora_rank: int = option(32, "Rank of the adapters.", group="what is trained", gt=0)
    lora_alpha: float = option(
        32.0,
        "Adapters are scaled by lora_alpha / lora_rank, with lora_rslora by lora_alpha /"
        " sqrt(lora_rank).",
        group="what is trained",
        gt=0,
    )
    lora_dropout: float = option(
        0.0, "Dropout before the adapters.", group="what is trained", ge=0, lt=1
    )
    lora_targets: str = option(
        "attention,mlp",
        "Modules with adapters: attention, mlp or names of modules (q_proj,v_proj).",
        group="what is trained",
    )
    lora_rslora: bool = option(
        False, "Rank-stabilised scale of the adapters.", group="what is trained"
    )
    lora_dora: bool = option(False, "Weight-decomposed adapters (DoRA).", group="what is trained")
    lora_lr_factor: float = option(
        1.0,
        "Learning rate of adapters as a multiple of learning_rate, so that one sweep can compare"
        " lora and full.",
        group="what is trained",
        gt=0,
    )

    # Schedule: a number of steps, 0.5ep (epochs), 2000ex (examples), 10% or 1/9 (of the run)
    log_every: str = option(
        "10",
        "Log the training loss: steps, 0.5ep, 2000ex, 600sec (of training audio), 10% or 1/9 of the"
        " run; 0 disables.",
        group="schedule",
        trains=False,
    )
    val_every: str = option(
        "100",
        "Validate (same units); the last step is always validated.",
        group="schedule",
        trains=False,
    )
    measure_base: bool = option(
        True,
        "Validate and generate samples before the first step as well.",
        group="schedule",
        trains=False,
    )
    best_from: str = option(
        "0",
        "Validations before this point (same units) cannot become the best.",
        group="schedule",
        trains=False,
    )
    best_by: str = option(
        "val_loss",
        "What selects the best checkpoint, and a sweep's best trial: the lowest value of a"
        " validation metric, or the best of a judged number (wer, similarity, dnsmos, ...).",
        group="schedule",
        trains=False,
    )
    patience: str = option(
        "0",
        "Stop when best_by has not improved for this long: 2ep or 5000ex (the same for any batch"
        " size), or steps, or 10% of the run; 0 disables.",
        group="schedule",
        trains=False,
    )
    min_delta: float = option(
        0.0,
        "How much better best_by must get to be an improvement for patience.",
        group="schedule",
        trains=False,
        ge=0,
    )
    save_every: str = option(
        "1000",
        "Save a checkpoint to resume from (same units); the last step is always saved.",
        group="schedule",
        trains=False,
    )
    gen_every: str = option(
        "1000",
        "Generate samples (same units), also at the first and the last step; 0 disables.",
        group="schedule",
        trains=False,
    )
    gen_asr: str = option(
        "none",
        "Recogniser that hears the samples, as --asr of csm_ft.evaluate: what it hears and the"
        " word error rate stand beside each.",
        group="schedule",
        trains=False,
    )
    keep_last: int = option(
        2,
        "Checkpoints to keep, in addition to the best weights.",
        group="schedule",
        trains=False,
        gt=0,
    )

    extend: Literal["off", "constant", "stretch"] = option(
        "off",
        "Prolong the finished run in output_dir to a larger n_epochs or max_steps: constant = at"
        " its last learning rate; stretch = at the rates of a run planned so long.",
        group="schedule",
        trains=False,
    )

    # Judging: the judges of `python -m csm_ft.evaluate`, during training
    judge_every: str = option(
        "0",
        "Validate and let judges hear fixed prompts (same units), also at the first and the last"
        " step; 0 disables.",
        group="judging",
        trains=False,
    )
    judge_prompts: str = option(
        "",
        "JSON file of prompts, as for csm_ft.generate; empty = texts of the validation split that"
        " stand in no training clip.",
        group="judging",
        path=True,
        trains=False,
    )
    judge_n_prompts: int = option(
        16,
        "Prompts to take from the validation split.",
        group="judging",
        trains=False,
        gt=0,
    )
    judge_max_sec: float = option(
        0.0,
        "Limit of a judged sample in seconds; 0 = as for generate.",
        group="judging",
        trains=False,
        ge=0,
    )
    judge_asr: str = option(
        "auto", "Recogniser, as --asr of csm_ft.evaluate.", group="judging", trains=False
    )
    judge_language: str = option(
        "",
        "Language of the texts, as en; empty = as the recogniser hears it.",
        group="judging",
        trains=False,
    )
    judge_embedder: str = option(
        "auto",
        "Voice embedder, as --embedder of csm_ft.evaluate.",
        group="judging",
        trains=False,
    )
    judge_emotion_classifier: str = option(
        "none",
        "Classifier of emotions, as --emotion_classifier of csm_ft.evaluate.",
        group="judging",
        trains=False,
    )
    judge_best: bool = option(
        False,
        "Only judged validations can become the best, so that its numbers are those of its weights;"
        " always so when best_by is judged, and in a sweep that judges.",
        group="judging",
        trains=False,
    )

    # Tracking
    wandb: Literal["auto", "online", "offline", "off"] = option(
        "auto",
        "Weights & Biases; auto = as W&B's own settings say, else online with a key (WANDB_API_KEY"
        " or wandb login), else offline; off disables. Of it and WANDB_MODE the stricter counts.",
        group="tracking",
        trains=False,
    )
    wandb_project: str = option(
        WANDB_PROJECT,
        "W&B project; a project in W&B's own settings wins over the default.",
        group="tracking",
        trains=False,
    )
    wandb_name: str = option(
        "", "W&B run name; empty = the name of output_dir.", group="tracking", trains=False
    )
    wandb_group: str = option(
        "", "W&B group; a sweep sets it to its study.", group="tracking", trains=False
    )
    wandb_reinit: bool = option(
        False,
        "Start a separate W&B run even if one is open in this process.",
        group="tracking",
        trains=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _use_amp(cls, values: Any) -> Any:
        """Translate `use_amp` of the public CSM trainer: true is bf16 here, false is fp32."""
        if isinstance(values, dict) and "use_amp" in values:
            values = dict(values)
            uses_amp = _parse_bool("use_amp", values.pop("use_amp"))
            values.setdefault("dtype", "bf16" if uses_amp else "fp32")
        return values

    @model_validator(mode="before")
    @classmethod
    def _lora_learning_rate(cls, values: Any) -> Any:
        """Default to a higher learning rate for adapters than for the weights themselves."""
        is_lora = isinstance(values, dict) and values.get("method") == "lora"
        if is_lora and "learning_rate" not in values:
            values = {**values, "learning_rate": LORA_LEARNING_RATE}
        return values

    @field_validator(
        "log_every",
        "val_every",
        "best_from",
        "patience",
        "save_every",
        "gen_every",
        "judge_every",
        "warmup_steps",
    )
    @classmethod
    def _duration(cls, value: str) -> str:
        Duration.parse(value)
        return value

    @field_validator("replay")
    @classmethod
    def _data_and_share(cls, value: str) -> str:
        if value:
            parse_replay(value)
        return value

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in cls.methods:
            raise ValueError(f"choose among {', '.join(cls.methods)}")
        return value

    @model_validator(mode="after")
    def _lora_needs_a_base(self) -> Self:
        if self.method == "lora" and self.train_from_scratch:
            raise ValueError(
                "method lora adapts trained weights, and train_from_scratch has none; drop one of"
                " the two"
            )
        return self

    @model_validator(mode="after")
    def _averaging_needs_beta(self) -> Self:
        if self.optimizer == "schedulefree" and not self.adam_beta1:
            raise ValueError(
                "optimizer schedulefree averages weights by adam_beta1, which is 0; give one above"
                " 0, such as 0.9"
            )
        return self

    @model_validator(mode="after")
    def _averages_once(self) -> Self:
        if self.ema_decay and self.optimizer == "schedulefree":
            raise ValueError(
                f"ema_decay {self.ema_decay}: optimizer schedulefree averages weights by itself;"
                " drop one of the two"
            )
        if self.ema_decay and self.dtype == "bf16_pure" and self.method != "lora":
            raise ValueError(
                f"ema_decay {self.ema_decay}: an average in bf16 loses small steps; use --dtype"
                " bf16 beside it, or --method lora"
            )
        return self

    @model_validator(mode="after")
    def _rounding_needs_adamw(self) -> Self:
        if self.optimizer == "schedulefree" and self.dtype == "bf16_pure" and self.method != "lora":
            raise ValueError(
                "dtype bf16_pure rounds weights at random, which optimizer schedulefree does not"
                " know; use --optimizer adamw or adamw8bit, or --dtype bf16"
            )
        return self

    @model_validator(mode="after")
    def _patience_needs_validations(self) -> Self:
        intervals = [Duration.parse(text).amount for text in (self.val_every, self.judge_every)]
        if Duration.parse(self.patience).amount and not any(intervals):
            raise ValueError(
                f"patience {self.patience} is measured at validations, and val_every 0 has none"
                " before the last step; give --val_every an interval"
            )
        return self

    @model_validator(mode="after")
    def _extends_what_is_there(self) -> Self:
        if self.extend != "off" and not self.resume:
            raise ValueError(
                f"extend {self.extend} prolongs the run in output_dir, and resume false moves it"
                " aside; drop one of the two"
            )
        return self

    @classmethod
    def refuse_search(cls, name: str, values: Sequence[Any]) -> str:
        """Return why a sweep cannot search `name` among `values` (of a range: its ends), or ""."""
        return cls.not_searchable.get(name, "")

    def training_keys(self) -> dict[str, Any]:
        """Return the options that can change the trained weights."""
        fields = type(self).model_fields
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if extra(fields[name])["trains"]}

    def fingerprint(self) -> str:
        """Return 8 hex digits that identify the training by its data and training options."""
        text = json.dumps([Path(self.data).name, self.training_keys()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def parse_replay(value: str) -> tuple[Path, float]:
    """Return token file and share of `DATA:SHARE`; ValueError for anything else."""
    path, _, share = value.rpartition(":")
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not path or not 0 < number < 1:
        raise ValueError(
            f"replay {value!r}: write DATA:SHARE, with a share above 0 and below 1, such as"
            " general.hdf5:0.5"
        )
    return Path(path), number


def _parse_bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "1", "yes", "on"):
        return True
    if str(value).lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"{name} {value!r} is neither true nor false")
