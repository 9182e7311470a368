"""The flat config: YAML key = command-line flag = sweep parameter.

Each program has one pydantic class whose fields are its options: the description of a field is the
help of its flag and its line in the README. A value comes from the defaults, from the YAML file
behind `--config`, or from a flag; flags beat YAML whatever the order. Imports neither torch nor any
family, so that the sweep's orchestrator starts in well under a second.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

import yaml
from dotenv import find_dotenv, load_dotenv
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from csm_ft.schedule import Duration

LORA_LEARNING_RATE = 1.5e-4  # what has worked: 1e-4 to 2e-4


class ConfigError(ValueError):
    """A mistake of the user in a flag, a YAML key or a combination of them.

    The message names the value, the rule and the way out.
    """


def option(default: Any, description: str, *, group: str, trains: bool = True) -> Any:
    """Declare one option.

    `trains=False` marks it as unable to change the trained weights (so a resumed run may change
    it).
    """
    return Field(
        default,
        description=description,
        validate_default=True,
        json_schema_extra={"group": group, "trains": trains},
    )


class Options(BaseModel):
    """Base of every program's config.

    Frozen, unknown keys refused, `on/off/yes/no` of YAML 1.1 understood where a word is meant.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    aliases: ClassVar[Mapping[str, str]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _yaml_bool_as_word(cls, value: Any, info: Any) -> Any:
        """YAML 1.1 reads an unquoted `off` as False.

        Where the option's words include `off` it is given back its name.
        """
        if isinstance(value, bool):
            words = get_args(cls.model_fields[info.field_name].annotation)
            for word in ("on", "yes", "true") if value else ("off", "no", "false"):
                if word in words:
                    return word
        return value

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def to_yaml(self) -> str:
        """Return all options as YAML in the order of the class."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class TrainConfig(Options):
    """What train.py can be told and a sweep can search.

    A family adds its own keys in a subclass (families/<name>/config.py).
    """

    aliases: ClassVar[Mapping[str, str]] = {"gen_sentence": "gen_sentences"}

    # What is trained on what
    data: str = option(
        "./data/tokens.hdf5", "Token file written by pretokenize.py.", group="run", trains=False
    )
    output_dir: str = option(
        "auto",
        "Run folder; the same folder resumes. auto = exp/<data>-<hash of this config>.",
        group="run",
        trains=False,
    )
    family: Literal["csm"] = option("csm", "Model family.", group="run")
    model_name_or_checkpoint_path: str = option(
        "auto",
        "Weights to start from: a hub name, a folder, a run's folder or a file. auto = by the codec"
        " of the token file (mimi: sesame/csm-1b, melrvq: the embedded tiny base).",
        group="run",
    )
    train_from_scratch: bool = option(
        False, "Start from random weights of the chosen size instead.", group="run"
    )
    resume: bool = option(
        True,
        "Go on from the last checkpoint in output_dir; false = set the old run aside and begin"
        " again.",
        group="run",
        trains=False,
    )
    partial_data_loading: bool = option(
        False,
        "Read tokens from the mapped file as needed (flat memory) instead of loading them.",
        group="run",
        trains=False,
    )
    seed: int = option(
        0, "Seed of order, amortised frames, initialisation and samples.", group="run"
    )
    device: str = option(
        "auto", "cpu, cuda or cuda:N; auto = cuda if there is one.", group="run", trains=False
    )
    dtype: Literal["auto", "fp32", "bf16"] = option(
        "auto",
        "Arithmetic: bf16 = autocast over fp32 master weights; auto = bf16 where the hardware"
        " has it.",
        group="run",
    )
    threads: int = option(
        0, "CPU threads of torch; 0 = all cores given to this process.", group="run", trains=False
    )

    # Optimisation
    n_epochs: float = option(5, "Passes over the training clips.", group="optimisation")
    max_steps: int = option(0, "Optimiser steps; 0 = as n_epochs says.", group="optimisation")
    batch_size: int = option(
        8, "Clips per batch; times grad_acc_steps = clips per optimiser step.", group="optimisation"
    )
    grad_acc_steps: int = option(
        1,
        "Batches per optimiser step; the gradient is that of one large batch.",
        group="optimisation",
    )
    batch_tokens: int = option(
        0,
        "Padded positions (text tokens + frames) per batch instead of a number of clips; 0 = use"
        " batch_size.",
        group="optimisation",
    )
    micro_batch_tokens: int = option(
        16384,
        "Padded positions that fit one forward pass: larger batches are split; the gradient stays"
        " the same.",
        group="optimisation",
        trains=False,
    )
    learning_rate: float = option(3e-5, "Peak learning rate of AdamW.", group="optimisation")
    warmup_steps: str = option(
        "5%",
        "Linear warm-up: a number of optimiser steps, or a share of the run (5%).",
        group="optimisation",
    )
    lr_decay: Literal["linear", "cosine", "constant", "exponential", "wsd"] = option(
        "linear",
        "Decay after warm-up, in optimiser steps (wsd: constant, last 20 % linear).",
        group="optimisation",
    )
    min_lr_ratio: float = option(
        0.0,
        "Learning rate at the end of the decay, as a share of the peak (exponential: at least"
        " 0.01).",
        group="optimisation",
    )
    weight_decay: float = option(0.002, "AdamW weight decay.", group="optimisation")
    decay_all: bool = option(False, "Decay norms and embeddings, too.", group="optimisation")
    adam_beta1: float = option(0.9, "AdamW beta 1.", group="optimisation")
    adam_beta2: float = option(0.95, "AdamW beta 2.", group="optimisation")
    adam_eps: float = option(1e-8, "AdamW epsilon.", group="optimisation")
    max_grad_norm: float = option(
        1.3, "Clip the gradient to this norm; 0 = off.", group="optimisation"
    )

    # What is trained
    method: Literal[
        "full", "lora", "backbone_only", "depth_only", "embeddings_only", "heads_only"
    ] = option(
        "full",
        "Which weights are trained: all; low-rank adapters beside frozen ones (the learning_rate is"
        " 1.5e-4 then, unless given); the backbone with codebook 0's head; the depth decoder with"
        " its heads (codebook 0 stays as it is); embeddings; heads.",
        group="what is trained",
    )
    lora_rank: int = option(32, "Rank of the adapters.", group="what is trained")
    lora_alpha: float = option(
        32.0,
        "Adapters count lora_alpha / lora_rank (with lora_rslora: / square root of lora_rank).",
        group="what is trained",
    )
    lora_dropout: float = option(0.0, "Dropout before the adapters.", group="what is trained")
    lora_targets: str = option(
        "attention,mlp",
        "Where adapters go: these two words, or names of modules (q_proj,v_proj).",
        group="what is trained",
    )
    lora_rslora: bool = option(
        False, "Rank-stabilised scale of the adapters.", group="what is trained"
    )
    lora_dora: bool = option(False, "Weight-decomposed adapters (DoRA).", group="what is trained")
    lora_lr_factor: float = option(
        1.0,
        "Learning rate of adapters as a multiple of learning_rate: lets one sweep compare lora and"
        " full.",
        group="what is trained",
    )

    # Conversations: metadata with conversation and turn
    loss_turns: str = option(
        "all",
        "Turns of a conversation that are learned: all, last, or speaker:NAME; the others are"
        " context.",
        group="conversation",
    )
    val_turns: str = option(
        "all",
        "Turns that validation scores (same words); the same for all trials.",
        group="conversation",
    )
    context_positions: int = option(
        2048,
        "Text tokens + frames that turns take together; longer conversations are cut between"
        " turns.",
        group="conversation",
    )

    # Now and then: a number of steps, or 0.5ep (epochs), 2000ex (examples), 10% or 1/9 (of the
    # run); 0 = off
    log_every: str = option(
        "10",
        "Log the training loss: steps, 0.5ep, 2000ex, 10% or 1/9 of the run; 0 = off.",
        group="now and then",
        trains=False,
    )
    val_every: str = option(
        "100",
        "Validate (same units); the last step is always validated.",
        group="now and then",
        trains=False,
    )
    measure_base: bool = option(
        True, "Validate and speak before the first step, too.", group="now and then", trains=False
    )
    best_from: str = option(
        "0",
        "Validations before this point (same units) do not count as the best.",
        group="now and then",
        trains=False,
    )
    save_every: str = option(
        "1000",
        "Save a checkpoint to resume from (same units); the last step is always saved.",
        group="now and then",
        trains=False,
    )
    gen_every: str = option(
        "1000",
        "Speak the gen_sentences (same units); the first and the last step are always heard"
        " unless 0.",
        group="now and then",
        trains=False,
    )
    keep_last: int = option(
        2,
        "Checkpoints to keep; the best weights are kept besides.",
        group="now and then",
        trains=False,
    )

    # Samples
    gen_sentences: list[str] = option(
        [],
        "Sentences to speak, or a .txt file with one per line; none = the first two validation"
        " clips, after the turns before them.",
        group="samples",
        trains=False,
    )
    gen_prompts: str = option(
        "",
        "JSON file of prompts with speakers and context clips, spoken as gen_sentences are.",
        group="samples",
        trains=False,
    )
    gen_speaker: str = option("999", "Speaker id of the samples.", group="samples", trains=False)
    gen_max_sec: float = option(10.0, "Longest sample in seconds.", group="samples", trains=False)
    gen_temperature: float = option(
        0.9, "Sampling temperature; 0 = greedy.", group="samples", trains=False
    )
    gen_topk: int = option(
        50, "Sample among the k likeliest codes; 0 = all.", group="samples", trains=False
    )

    # Tracking
    wandb: Literal["auto", "online", "offline", "off"] = option(
        "auto",
        "Weights & Biases; auto = online with WANDB_API_KEY, else offline; off = not imported.",
        group="tracking",
        trains=False,
    )
    wandb_project: str = option("csm-finetuning", "W&B project.", group="tracking", trains=False)
    wandb_name: str = option(
        "", "W&B run name; empty = the name of output_dir.", group="tracking", trains=False
    )
    wandb_group: str = option(
        "", "W&B group (a sweep sets it to its study).", group="tracking", trains=False
    )
    wandb_reinit: bool = option(
        False,
        "Start a W&B run of its own even if one is open in this process.",
        group="tracking",
        trains=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _use_amp(cls, values: Any) -> Any:
        """`use_amp` of the public CSM trainer: true is bf16 here, false is fp32."""
        if isinstance(values, dict) and "use_amp" in values:
            values = dict(values)
            values.setdefault(
                "dtype", "bf16" if _parse_bool("use_amp", values.pop("use_amp")) else "fp32"
            )
            values.pop("use_amp", None)
        return values

    @model_validator(mode="before")
    @classmethod
    def _lora_learning_rate(cls, values: Any) -> Any:
        """Adapters want a higher learning rate than the weights themselves."""
        if (
            isinstance(values, dict)
            and values.get("method") == "lora"
            and "learning_rate" not in values
        ):
            values = {**values, "learning_rate": LORA_LEARNING_RATE}
        return values

    @field_validator("gen_sentences", mode="before")
    @classmethod
    def _sentences(cls, value: Any) -> Any:
        sentences = [value] if isinstance(value, str) else list(value)
        if len(sentences) == 1 and str(sentences[0]).endswith(".txt"):
            path = Path(sentences[0])
            if not path.is_file():
                raise ValueError(
                    f"{path}: no such file; give a sentence, or a .txt file with one sentence per"
                    " line"
                )
            sentences = path.read_text(encoding="utf-8").splitlines()
        return [str(s).strip() for s in sentences if str(s).strip()]

    @field_validator("loss_turns", "val_turns")
    @classmethod
    def _turns(cls, value: str) -> str:
        if value not in ("all", "last") and (
            not value.startswith("speaker:") or value == "speaker:"
        ):
            raise ValueError(f"{value!r} is none of all, last, speaker:NAME")
        return value

    @field_validator(
        "log_every", "val_every", "best_from", "save_every", "gen_every", "warmup_steps"
    )
    @classmethod
    def _duration(cls, value: str) -> str:
        Duration.parse(value)
        return value

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in (
            "n_epochs",
            "batch_size",
            "grad_acc_steps",
            "micro_batch_tokens",
            "learning_rate",
            "adam_eps",
            "gen_max_sec",
            "keep_last",
            "context_positions",
            "lora_rank",
            "lora_alpha",
            "lora_lr_factor",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0")
        for name in (
            "max_steps",
            "batch_tokens",
            "threads",
            "weight_decay",
            "max_grad_norm",
            "gen_temperature",
            "gen_topk",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is below 0 (0 = off)")
        for name in ("adam_beta1", "adam_beta2", "min_lr_ratio", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not in [0, 1)")
        if self.method == "lora" and self.train_from_scratch:
            raise ValueError(
                "method lora adapts trained weights, and train_from_scratch has none; drop one of"
                " the two"
            )
        return self

    def training_keys(self) -> dict[str, Any]:
        """Return the options that can change the trained weights."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if extra(fields[name])["trains"]
        }

    def fingerprint(self) -> str:
        """Return 8 hex digits that name the training this config describes.

        Same training, same name.
        """
        text = json.dumps([Path(self.data).name, self.training_keys()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


C = TypeVar("C", bound=Options)


def load_env_files() -> None:
    """Take environment variables from the .env of the working folder (or above).

    Then from that beside the programs; set ones stay.
    """
    load_dotenv(find_dotenv(usecwd=True))
    load_dotenv(Path(__file__).resolve().parents[1] / ".env")


def read_yaml(config_class: type[Options], path: Path) -> dict[str, Any]:
    """Read a flat YAML config and check its keys; ConfigError names the file and what is wrong."""
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a list of `key: value` lines, this is a {type(values).__name__}"
        )
    for name in values:
        if name not in names_of(config_class):
            raise ConfigError(f"{path}: " + unknown(str(name), names_of(config_class), "key"))
    return {config_class.aliases.get(name, name): value for name, value in values.items()}


def build(config_class: type[C], values: Mapping[str, Any]) -> C:
    """Validate `values` into a config.

    ConfigError names each wrong option, its value and the rule.
    """
    try:
        return config_class.model_validate(
            {config_class.aliases.get(k, k): v for k, v in values.items()}
        )
    except ValidationError as error:
        raise ConfigError("\n".join(_message(config_class, e) for e in error.errors())) from None


def extra(field: Any) -> dict[str, Any]:
    """Return what `option` keeps with a field.

    Its group, and whether it can change the trained weights.
    """
    return field.json_schema_extra


def names_of(config_class: type[Options]) -> list[str]:
    """Return the keys that a config accepts, aliases included."""
    names = [*config_class.model_fields, *config_class.aliases]
    return [*names, "use_amp"] if issubclass(config_class, TrainConfig) else names


def unknown(word: str, names: Sequence[str], kind: str) -> str:
    """Say that a flag or key is not known, and which one may have been meant."""
    near = difflib.get_close_matches(word.split("=")[0], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; --help lists them all"
    return f"unknown {kind} {word!r}{hint}"


def _parse_bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "1", "yes", "on"):
        return True
    if str(value).lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"{name} {value!r} is neither true nor false")


def _message(config_class: type[Options], error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown(name, names_of(config_class), "option")
    text = error["msg"].removeprefix("Value error, ")
    return text if not name else f"{name}: {error['input']!r} is not valid: {text}"
