"""The start of a run: replace every "auto", open the run folder, check that resuming is valid."""

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

from csm_ft.atomic import write_whole
from csm_ft.config.base import build
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.replay import Replay
from csm_ft.data.split import Store
from csm_ft.device import choose_device, choose_dtype
from csm_ft.errors import ConfigError, MachineError, UserError
from csm_ft.families.base import Family
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.wandb_settings import choose_reachable_wandb_mode
from csm_ft.training.extension import add_extension, is_longer
from csm_ft.training.judging import check_judging

C = TypeVar("C", bound=TrainConfig)
_PACKAGES = ("torch", "torchtune", "transformers", "numpy", "safetensors", "optuna", "wandb")


def resolve(config: C, store: Store, family: Family) -> C:
    """Replace every "auto" by its value for this machine and token file.

    It also checks what would otherwise fail only after the model is loaded: prompts, and whether
    the run can be judged. Raises ConfigError or MachineError.
    """
    device = choose_device(config.device)
    changes: dict[str, object] = {
        "device": device,
        "dtype": choose_dtype(config.dtype, device),
        "val_dtype": choose_dtype(config.val_dtype, device),
        "threads": config.threads or torch.get_num_threads(),
    }
    if config.model_name_or_checkpoint_path == "auto" and not config.train_from_scratch:
        base = family.default_base(store)
        if not base:
            raise ConfigError(
                f"the family {family.name} has no published base for {config.data}; name weights"
                " with --model_name_or_checkpoint_path, or --train_from_scratch"
            )
        changes["model_name_or_checkpoint_path"] = base
    changes["wandb"] = choose_reachable_wandb_mode(config.wandb)
    config = config.replace(**changes)
    config = config.replace(**family.choices(config, store))
    if config.output_dir == "auto":
        name = f"{Path(config.data).stem}-{config.fingerprint()}"
        config = config.replace(output_dir=f"exp/{name}")
    family.check_prompts(config)
    check_judging(config, family, store)
    return config


def announce(config: TrainConfig, store: Store) -> None:
    """Print the resolved choices, and a warning about options without effect."""
    defaults = type(config).model_fields
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
    has_decay = config.lr_decay not in ("constant", defaults["lr_decay"].default)
    if config.optimizer == "schedulefree" and has_decay:
        console.print(
            f"[yellow]lr_decay {config.lr_decay}: not used by optimizer schedulefree, which has no"
            " decay[/]"
        )
    base = config.model_name_or_checkpoint_path
    start = "random weights" if config.train_from_scratch else base
    console.print(f"[bold]{config.data}[/]: {store.info.family} from {start}")
    console.print(
        f"{config.device}, {config.dtype}, {config.threads} threads, W&B {config.wandb}; run folder"
        f" {config.output_dir}"
    )


@contextmanager
def open_run(
    config: TrainConfig, store: Store, replay: Replay | None = None
) -> Iterator[tuple[RunFolder, Path | None]]:
    """Yield the run folder, locked, and the checkpoint to resume from (None = a new run).

    Raises ConfigError when another process holds the lock, or when the folder holds a run of
    another training; a MachineError of the block says which checkpoint is saved.
    """
    folder = RunFolder(Path(config.output_dir))
    if not config.resume:
        folder.move_aside()
    is_new = False
    try:
        with folder.opened():
            is_new = not folder.is_run  # known only with the lock: another run may be starting
            checkpoints = folder.step_folders()
            if checkpoints:
                _check_same(config, store, replay, folder)
            elif config.extend != "off":
                raise ConfigError(
                    f"--extend {config.extend}: {folder.path} holds no run to prolong; name its"
                    " folder with --output_dir"
                )
            write_whole(folder.config, config.to_yaml())
            folder.write_environment(_environment(store, replay))
            announce(config, store)
            yield folder, checkpoints[-1] if checkpoints else None
    except UserError as error:
        # Nothing was trained: leave no folder that looks like a run.
        if is_new and not folder.metrics.exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, MachineError):
            saved = [path.name for path in folder.step_folders()[-1:]]
            error.args = (f"{error}. Saved so far: {saved[0] if saved else 'nothing'}",)
        raise


def _check_same(
    config: TrainConfig, store: Store, replay: Replay | None, folder: RunFolder
) -> None:
    """Raise ConfigError if the folder's run has other training options or other data.

    A larger length is recorded as an extension, if that is asked for.
    """
    before = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    now = config.training_keys()
    # An option that did not exist yet when the run began had its default.
    then = {**build(type(config), {}).training_keys(), **before}
    changed = [name for name, value in now.items() if then[name] != value]
    lines = [f"{name}: {then[name]!r} there, {now[name]!r} now" for name in changed]
    if folder.read_environment()["data_fingerprint"] != store.info.content_fingerprint:
        lines.append(f"tokens: {config.data} has other content than when the run began")
    replayed_then = folder.read_environment().get("replay_fingerprint", "")
    if replay and replayed_then and replayed_then != replay.fingerprint:
        lines.append(f"replay: {config.replay} has other content than when the run began")
    longer = is_longer(then, now, changed) and len(lines) == 1
    if longer and config.extend != "off":
        add_extension(folder, then, config.extend)
    elif lines:
        prolong = "prolong it with --extend constant or --extend stretch; " if longer else ""
        raise ConfigError(
            f"{folder.path} holds a run of another training:\n  "
            + "\n  ".join(lines)
            + f"\nWays out: {prolong}give the same options to resume it; choose another"
            " --output_dir; --resume false to move it aside; or start from its weights:"
            f" --model_name_or_checkpoint_path {folder.path}"
        )


def _environment(store: Store, replay: Replay | None) -> dict[str, object]:
    info = store.info
    fingerprints = {name: value for name, value in info.facts.items() if "fingerprint" in name}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version(name) for name in _PACKAGES},
        "data_fingerprint": info.content_fingerprint,
        **({"replay_fingerprint": replay.fingerprint} if replay else {}),
        "audio_fingerprint": info.audio_fingerprint,
        "text_fingerprint": info.text_fingerprint,
        **fingerprints,  # as the family names them
    }
