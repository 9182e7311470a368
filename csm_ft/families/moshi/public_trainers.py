"""Options of the public trainers, as ours: kyutai's nested YAML, J-Moshi's flags. No torch."""

from collections.abc import Callable, Mapping
from typing import Any

from csm_ft.console import console
from csm_ft.errors import ConfigError

J_MOSHI_FRAME_SEC = 0.08  # of max_length and min_length
_MARKS = ("moshi_paths", "optim", "full_finetuning", "num_microbatches")
_NESTED = ("data", "lora", "wandb")  # which are no names of sections here
Translate = Callable[[Any], dict[str, Any]]

_TRAIN: Mapping[str, str] = {  # kyutai's -> train.py's, with the same value
    "duration_sec": "window_sec",
    "batch_size": "batch_size",
    "num_microbatches": "grad_acc_steps",
    "max_steps": "max_steps",
    "optim.lr": "learning_rate",
    "optim.weight_decay": "weight_decay",
    "max_norm": "max_grad_norm",
    "first_codebook_weight_multiplier": "first_codebook_weight_multiplier",
    "text_padding_weight": "text_padding_weight",
    "lora.rank": "lora_rank",
    "lora.ft_embed": "lora_embeddings",
    "eval_freq": "val_every",
    "log_freq": "log_every",
    "ckpt_freq": "save_every",
    "num_ckpt_keep": "keep_last",
    "seed": "seed",
    "run_dir": "output_dir",
    "moshi_paths.hf_repo_id": "model_name_or_checkpoint_path",
    "moshi_paths.moshi_path": "model_name_or_checkpoint_path",
    "wandb.project": "wandb_project",
    "wandb.run_name": "wandb_name",
}
_PRETOKENIZE: Mapping[str, str] = {
    "data.train_data": "train_data",
    "data.eval_data": "val_data",
    "moshi_paths.mimi_path": "codec_source",
    "moshi_paths.tokenizer_path": "tokenizer",
    "seed": "seed",
}
_CONVERTED: Mapping[str, Translate] = {
    "optim.pct_start": lambda share: {"warmup_steps": f"{100 * float(share):g}%"},
    "overwrite_run_dir": lambda yes: {"resume": not yes},
    "param_dtype": lambda name: {"dtype": "bf16" if name == "bfloat16" else "fp32"},
    "gradient_checkpointing": lambda yes: {"activation_checkpointing": "full"} if yes else {},
    "wandb.offline": lambda yes: {"wandb": "offline"} if yes else {},
}
_WITHOUT_MEANING: Mapping[str, str] = {
    "data.shuffle": "examples are always shuffled",
    "data.train_data": "pretokenize.py reads it",
    "data.eval_data": "pretokenize.py reads it",
    "moshi_paths.mimi_path": "pretokenize.py reads it",
    "moshi_paths.tokenizer_path": "pretokenize.py reads it",
    "moshi_paths.config_path": "config.json is read beside the weights",
    "save_adapters": "csm_ft.export writes adapters (moshi-lora) or merged weights (moshi)",
    "do_eval": "--val_every 0 validates at the end only",
    "do_ckpt": "the last step is always saved",
    "wandb.key": "it belongs into .env, as WANDB_API_KEY",
    "world_size": "it is known from the machine",
}
_PARTS = {
    "all": "full",
    "tempformer": "temporal_only",
    "depformer": "depth_only",
    "text_embedding": "text_embeddings_only",
}
J_MOSHI_ALIASES: Mapping[str, str] = {
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_acc_steps",
    "num_train_epochs": "n_epochs",
    "max_train_steps": "max_steps",
    "num_warmup_steps": "warmup_steps",
    "eval_steps": "val_every",
    "logging_steps": "log_every",
    "save_steps": "save_every",
    "project_name": "wandb_project",
    "model_user_stream": "user_stream",
    "semantic_loss_weight": "first_codebook_weight_multiplier",
    "text_padding_loss_weight": "text_padding_weight",
}
J_MOSHI_FLAGS = (
    *("tempformer_learning_rate", "depformer_learning_rate", "parameters_to_finetune"),
    *("max_length", "min_length", "acoustic_loss_weight", "moshi_speakers"),
)


def is_kyutai(values: Mapping[str, Any]) -> bool:
    """Tell whether a YAML file is one of kyutai's trainer: it is nested."""
    nested = [name for name in _NESTED if isinstance(values.get(name), dict)]
    return bool(nested) or any(name in values for name in _MARKS)


def training_options(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return train.py's options; what has no meaning here is told with the reason. ConfigError."""
    flat = _flat(values)
    found = _renamed(flat, _TRAIN)
    lora = values.get("lora") or {}
    if values.get("full_finetuning") or not lora.get("enable", True):
        found["method"] = "full"
        found.pop("lora_embeddings", None)
    else:
        rank = float(lora.get("rank", 64))
        found |= {"method": "lora", "lora_rank": int(rank)}
        found["lora_alpha"] = float(lora.get("scaling", 2.0)) * rank
    found.setdefault("lr_decay", "cosine")
    known = {*_TRAIN, "full_finetuning", "lora.enable", "lora.scaling"}
    return found | _others(flat, known, where)


def pretokenize_options(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return pretokenize.py's options of such a file."""
    return _renamed(_flat(values), _PRETOKENIZE)


def j_moshi_options(values: dict[str, Any]) -> dict[str, Any]:
    """Replace J-Moshi's options that mean something else here; ValueError for a wrong word."""
    found = {name: value for name, value in values.items() if name not in J_MOSHI_FLAGS}
    rates = {
        part: float(values[f"{flag}_learning_rate"])
        for part, flag in (("temporal", "tempformer"), ("depth", "depformer"))
        if f"{flag}_learning_rate" in values
    }
    if rates:
        # One peak, of which each part has its share.
        peak = max(*rates.values(), float(values.get("learning_rate", 0)))
        found["learning_rate"] = peak
        found |= {f"{part}_lr_factor": rate / peak for part, rate in rates.items()}
    word = values.get("parameters_to_finetune")
    if word is not None:
        if word not in _PARTS:
            raise ValueError(f"parameters_to_finetune {word!r}: choose among {', '.join(_PARTS)}")
        found["method"] = _PARTS[word]
    for theirs, ours in (("max_length", "window_sec"), ("min_length", "min_window_sec")):
        if theirs in values:
            found[ours] = float(values[theirs]) * J_MOSHI_FRAME_SEC
    if "moshi_speakers" in values:
        speakers = str(values["moshi_speakers"]).replace(",", " ").upper().split()
        sides = {"A": "left", "B": "right"}
        if not speakers or not set(speakers) <= sides.keys():
            raise ValueError(f"moshi_speakers {values['moshi_speakers']!r}: write A, B or A,B")
        found["moshi_channel"] = "both" if len(set(speakers)) == 2 else sides[speakers[0]]
    if "acoustic_loss_weight" in values:
        semantic = float(values.get("first_codebook_weight_multiplier", 100.0))
        ratio = semantic / float(values["acoustic_loss_weight"])
        found["first_codebook_weight_multiplier"] = ratio
    return found


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"optim.lr": ...} of {"optim": {"lr": ...}}, without what is empty."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = value if isinstance(value, dict) else {None: value}
        for key, one in inner.items():
            if one not in (None, ""):
                found[name if key is None else f"{name}.{key}"] = one
    return found


def _renamed(flat: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: flat[theirs] for theirs, ours in names.items() if theirs in flat}


def _others(flat: Mapping[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """Convert what has another form here, and tell what has no meaning."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        if name in _CONVERTED:
            found |= _CONVERTED[name](value)
        elif name in _WITHOUT_MEANING:
            console.print(f"{where}: {name} is not used: {_WITHOUT_MEANING[name]}", markup=False)
        elif name not in known:
            raise ConfigError(f"{where}: {name} is no key of kyutai's trainer that is known here")
    return found
