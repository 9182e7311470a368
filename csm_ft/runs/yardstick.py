"""How a run measures and orders: decided when it begins, and kept by all that is compared."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from csm_ft.config.train import TrainConfig


def kept_options(config: TrainConfig, recorded: Path) -> dict[str, Any]:
    """Return the options of `config.measured_by` as a run began with them; {} without a run.

    `recorded` is the run's config.yaml. One that is older than an option has what was done then.
    """
    if not recorded.is_file():
        return {}
    before = _read(recorded, recorded.stat().st_mtime_ns)
    return {name: before.get(name, old) for name, old in config.measured_by.items()}


@lru_cache(maxsize=1)
def _read(path: Path, _time_ns: int) -> dict[str, Any]:
    """Read a config.yaml, but not once more for each trial of a sweep."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def describe_kept(config: TrainConfig, kept: dict[str, Any]) -> str:
    """Say which options were asked for and are not used, as others were measured before; or ""."""
    changed = [
        f"{name} {kept[name]}, not {getattr(config, name)}"
        for name in kept
        if getattr(config, name) not in (kept[name], "auto")
    ]
    return f"these options stay as the run began: {', '.join(changed)}" if changed else ""
