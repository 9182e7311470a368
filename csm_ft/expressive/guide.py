"""What users of the CSM expressivity guide type, and what it is here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.config.yaml_file import load_yaml
from csm_ft.errors import ConfigError

_FLAGS = {
    "--gpus": "--n_gpus N, for --sweep; one training takes the first GPU (CUDA_VISIBLE_DEVICES)",
    "--skip-datasets": "nothing: a step whose inputs have not changed is skipped by itself",
    "--resume-from-checkpoint": "nothing: the same command resumes",
    "--config": "--train_config FILE, with the names below",
}
_KEYS: Mapping[str, str] = {
    "moshi_paths": "--family moshi; other weights are model_name_or_checkpoint_path",
    "dataset": "the folders behind the command; --balance, --text_template",
    "lora.enable": "method: lora",
    "lora.rank": "lora_rank",
    "lora.scaling": "lora_alpha: rank * scaling",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "lora_targets",
    "training.batch_size": "batch_size",
    "training.max_steps": "max_steps",
    "training.num_epochs": "n_epochs",
    "training.gradient_accumulation_steps": "grad_acc_steps",
    "training.max_grad_norm": "max_grad_norm",
    "training.seed": "seed",
    "training.output_dir": "--output",
    "optimizer.lr": "learning_rate",
    "optimizer.learning_rate": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.name": "nothing: AdamW",
    "scheduler.num_warmup_steps": "warmup_steps",
    "scheduler.name": "lr_decay",
    "advanced.gradient_checkpointing": "nothing: a smaller micro_batch_tokens saves memory",
}
_SECTIONS = frozenset(name.split(".")[0] for name in _KEYS)


def check(argv: Sequence[str]) -> None:
    """Raise ConfigError that translates all of the guide's options and keys at once, if any."""
    flags = [word.split("=")[0] for word in argv if word.split("=")[0] in _FLAGS]
    lines = [f"  {flag}: {_FLAGS[flag]}" for flag in dict.fromkeys(flags)]
    for path in _yaml_files(argv):
        values = load_yaml(path)
        if isinstance(values, dict) and _SECTIONS & values.keys():
            lines += [f"  {path}: {line}" for line in _translate(values)]
    if lines:
        raise ConfigError(
            "these are options of the CSM expressivity guide; here they are:\n" + "\n".join(lines)
        )


def _yaml_files(argv: Sequence[str]) -> Iterator[Path]:
    words = [part for word in argv for part in word.split("=", 1)]
    paths = (Path(word) for word in words if word.endswith((".yaml", ".yml")))
    return (path for path in paths if path.is_file())


def _translate(values: Mapping[str, Any]) -> Iterator[str]:
    for section, content in values.items():
        names = [section]
        if isinstance(content, dict) and section not in _KEYS:
            names = [f"{section}.{key}" for key in content]
        for name in names:
            yield f"{name}: {_KEYS.get(name, 'no such option; see docs/options.md')}"
