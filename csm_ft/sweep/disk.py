"""What a sweep needs of the disk: the checkpoints of its running trials, and those that stay."""

import os
from pathlib import Path

from csm_ft.atomic import describe_disk, free_bytes
from csm_ft.errors import MachineError
from csm_ft.runs.folder import SweepFolder
from csm_ft.runs.sizes import Sizes
from csm_ft.sweep.confirm import Confirm

KEEP_WEIGHTS = 3  # of the best trials


def num_kept_weights(confirm: Confirm | None) -> int:
    """Return of how many trials the weights stay: those that run again may become the best."""
    return max(KEEP_WEIGHTS, confirm.num_settings if confirm else 0)


def needed_bytes(
    sizes: Sizes, *, num_workers: int, num_trials: int, num_kept: int = KEEP_WEIGHTS
) -> int:
    """Return the bytes that weights and checkpoints take at most, with the settings of trial 0."""
    running, kept = min(num_workers, num_trials), min(num_kept, num_trials)
    of_running = running * (sizes.kept_bytes + sizes.draft_bytes)
    return of_running + kept * sizes.kept_bytes + sizes.weights_bytes  # the best of the default


def check_disk(
    folder: SweepFolder,
    sizes: Sizes,
    *,
    num_workers: int,
    num_trials: int,
    num_kept: int = KEEP_WEIGHTS,
) -> None:
    """Raise MachineError when the disk has no room for the checkpoints that the sweep will have."""
    needed = needed_bytes(sizes, num_workers=num_workers, num_trials=num_trials, num_kept=num_kept)
    there = sum(_bytes_under(path) for path in folder.trials.glob("*/checkpoints"))
    if needed > there + free_bytes(folder.path):
        workers = f"{num_workers} worker{'s' * (num_workers > 1)}"
        raise MachineError(
            f"{folder.path}: weights and checkpoints take up to {needed / 1e6:,.0f} MB with"
            f" {workers}, {there / 1e6:,.0f} MB of it there already"
            f" ({describe_disk(folder.path)}). Make room, or use fewer workers (--n_gpus), --method"
            " lora, or an --output_dir on a larger disk; the same command continues"
        )


def has_room(folder: SweepFolder, sizes: Sizes) -> bool:
    """Tell whether the disk has room for what one trial keeps and saves."""
    return free_bytes(folder.path) >= sizes.kept_bytes + sizes.draft_bytes


def _bytes_under(path: Path) -> int:
    files = (Path(root) / name for root, _, names in os.walk(path) for name in names)
    return sum(file.stat().st_size for file in files)
