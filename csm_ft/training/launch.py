"""Whether a run is a process of its own, one of several (parallel.py) or a lane (lanes.py)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from csm_ft.config.train import TrainConfig
from csm_ft.device import choose_device
from csm_ft.errors import ConfigError
from csm_ft.ranks import ALONE, Ranks
from csm_ft.training.lanes import Lane, Lanes

C = TypeVar("C", bound=TrainConfig)


def is_launched() -> bool:
    """Tell whether torchrun, or another launcher like it, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


@contextmanager
def open_ranks(config: C, lanes: Lanes | None = None) -> Iterator[tuple[Ranks, C]]:
    """Join the processes of this run, or the other runs of this process, its lanes.

    Yield them, and this rank's options.

    Raises ConfigError for --parallel without torchrun, or with options that it cannot have, and
    MachineError when another rank is gone.
    """
    if lanes is not None:
        lane = Lane(lanes, choose_device(config.device), config.dtype)
        try:
            yield lane, config
        finally:
            lane.close()
        return
    if not is_launched():
        if config.parallel in ("ddp", "fsdp"):
            raise ConfigError(
                f"parallel {config.parallel}: one process was started, and this needs one for each"
                " GPU; start them with: torchrun --nproc-per-node NUMBER_OF_GPUS train.py"
                f" --parallel {config.parallel} ..."
            )
        yield ALONE, config
        return
    if config.parallel == "off":
        raise ConfigError(
            "parallel off: torchrun started several processes, which would all train the same"
            " model; use --parallel ddp or fsdp, or start train.py with python"
        )
    check_fits_fsdp(config)
    from csm_ft.training.parallel import join_ranks  # here: it takes a second to import

    with join_ranks(config) as joined:
        yield joined


def check_fits_fsdp(config: TrainConfig) -> None:
    """Raise ConfigError for what cannot be sharded."""
    if config.parallel != "fsdp":
        return
    if config.optimizer == "adamw8bit":
        raise ConfigError(
            "optimizer adamw8bit: its blocks of 256 do not fit the shards of --parallel fsdp; use"
            " --optimizer adamw, or --parallel ddp"
        )
    if config.dtype == "bf16_pure" and config.method != "lora":
        raise ConfigError(
            "dtype bf16_pure: --parallel fsdp trains weights of one dtype, and norms stay in fp32;"
            " use --dtype bf16, --method lora, or --parallel ddp"
        )
