"""The folder of a run: what was chosen, whether it may go on, and one process at a time in it."""

import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
import yaml

from csm_ft.atomic import recover, write_whole
from csm_ft.config import ConfigError, TrainConfig, build
from csm_ft.console import console
from csm_ft.data.token_file import Store
from csm_ft.families.base import Family
from csm_ft.families.prompts import check_clips, read_prompts
from csm_ft.runs.checkpoint import checkpoints

C = TypeVar("C", bound=TrainConfig)


@contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """Fix threads and seeds for the run.

    Torch's settings are put back afterwards, so that a worker's next trial starts clean.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.set_flush_denormal(True)  # peaked logits make denormals, 20 times slower on CPUs
    if config.device == "cpu":
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_flush_denormal(False)


def resolve(config: C, store: Store, family: Family) -> C:
    """Replace every `auto` by what it means on this machine and for this token file.

    And say what was chosen and why.

    What would only be found out after the model is loaded is checked here, too. ConfigError says
    what is wrong.
    """
    changes: dict[str, object] = {}
    if config.device == "auto":
        changes["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    device = str(changes.get("device", config.device))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device}: this torch sees no GPU; check the driver with nvidia-smi, or use"
            " --device cpu"
        )
    if config.dtype == "auto":
        has_bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        changes["dtype"] = "bf16" if has_bf16 else "fp32"
    if config.threads == 0:
        changes["threads"] = torch.get_num_threads()
    if config.model_name_or_checkpoint_path == "auto" and not config.train_from_scratch:
        changes["model_name_or_checkpoint_path"] = family.default_base(store)
    if config.wandb == "auto":
        changes["wandb"] = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    config = config.replace(**changes)
    if config.output_dir == "auto":
        config = config.replace(output_dir=f"exp/{Path(config.data).stem}-{config.fingerprint()}")
    defaults = type(config).model_fields
    if config.gen_prompts:
        check_clips(read_prompts(Path(config.gen_prompts)))
    unused = [
        name
        for name in defaults
        if name.startswith("lora_") and getattr(config, name) != defaults[name].default
    ]
    if unused and config.method != "lora":
        console.print(
            f"[yellow]{', '.join(unused)}: not used, as method is {config.method}; add --method"
            " lora[/]"
        )
    base = "random weights" if config.train_from_scratch else config.model_name_or_checkpoint_path
    console.print(
        f"[bold]{config.data}[/]: {store.info.codec}, {store.info.num_codebooks} codebooks ->"
        f" {config.family} from {base}"
    )
    console.print(
        f"{config.device}, {config.dtype}, {config.threads} threads, W&B {config.wandb}; run folder"
        f" {config.output_dir}"
    )
    return config


@contextmanager
def open_run(config: TrainConfig, store: Store) -> Iterator[tuple[Path, Path | None]]:
    """Yield the run folder, locked, and the checkpoint to go on from (None = a fresh run).

    Raises ConfigError when another process holds the folder, or when it holds a run that this
    config would not continue.
    """
    folder = Path(config.output_dir)
    if not config.resume:
        _set_aside(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another process is training in this folder; wait for it, or choose"
                " another --output_dir"
            ) from None
        recover(folder / "checkpoints" / "best")
        done = checkpoints(folder / "checkpoints")
        if done:
            _check_same(config, store, folder)
        write_whole(folder / "config.yaml", config.to_yaml())
        write_whole(folder / "env.json", json.dumps(_environment(store), indent=2))
        try:
            yield folder, done[-1] if done else None
        except ConfigError:  # nothing was trained: leave no folder that looks like a run
            if is_new and not (folder / "metrics.jsonl").exists():
                shutil.rmtree(folder)
            raise


def _check_same(config: TrainConfig, store: Store, folder: Path) -> None:
    """Refuse to go on with another training than the one in the folder."""
    before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    now = config.training_keys()
    then = {
        **build(type(config), {}).training_keys(),
        **before,
    }  # an option younger than the run had its default
    changed = [
        f"{name}: {then[name]!r} there, {value!r} now"
        for name, value in now.items()
        if then[name] != value
    ]
    environment = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    if environment["data_fingerprint"] != store.info.content_fingerprint:
        changed.append(f"tokens: {config.data} has other content than when the run began")
    if changed:
        raise ConfigError(
            f"{folder} holds a run of another training:\n  "
            + "\n  ".join(changed)
            + "\nWays out: give the same options to go on with it; choose another --output_dir;"
            " --resume false to set it aside; or start from its weights:"
            f" --model_name_or_checkpoint_path {folder}"
        )


def _set_aside(folder: Path) -> None:
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
            number += 1
        folder.rename(aside)
        console.print(f"the run that was in {folder} is now in {aside}")


def _environment(store: Store) -> dict[str, object]:
    packages = ("torch", "torchtune", "transformers", "numpy", "safetensors", "optuna", "wandb")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version(name) for name in packages},
        "data_fingerprint": store.info.content_fingerprint,
        "codec_fingerprint": store.info.codec_fingerprint,
        "tokenizer_fingerprint": store.info.tokenizer_fingerprint,
    }
