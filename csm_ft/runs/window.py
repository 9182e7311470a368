"""Sums since the last training row, and the row they make.

Kept in the checkpoint, so that a resumed run logs the same means.
"""

from collections.abc import Mapping
from typing import Any

Window = dict[str, float]


def add(window: Window, sums: Mapping[str, float]) -> None:
    """Add what one optimiser step summed and counted."""
    for name, value in sums.items():
        window[name] = window.get(name, 0.0) + value


def training_row(window: Window, weights: Mapping[str, float]) -> dict[str, Any]:
    """Return the means over the window.

    Nats per target of each part, their weighted sum as `loss`, times per step, rates.
    """
    steps = window["steps"]
    means = {part: window[f"nats_{part}"] / max(1, window[f"count_{part}"]) for part in weights}
    return {
        "loss": sum(weights[part] * means[part] for part in weights),
        **means,
        "grad_norm": window["grad_norm"] / steps,
        "padding_share": 1 - window["positions"] / window["padded"],
        **{
            name: window[name] / steps
            for name in ("micro_batches", "sec", "data_sec", "compute_sec", "update_sec")
        },
        "audio_sec_per_sec": window["audio_sec"] / window["sec"],
    }
