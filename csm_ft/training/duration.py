"""How long a run takes: as it was measured, or else estimated from what its steps compute."""

import statistics
from typing import NamedTuple

from csm_ft.runs.folder import RunFolder

# Dense TFLOP/s by their makers' data sheets: with 16-bit matrix products, and with 32-bit ones.
CARDS_TFLOPS = {
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "RTX 4090": (165.0, 83.0),
    "T4": (65.0, 8.1),
}
ASSUMED_SHARE = 0.3  # of these, that training reaches; assumed, not measured
_LAST_ROWS = 20  # of metrics.jsonl, that the time of a step is taken from


def card_tflops(device: str, *, is_16_bit: bool) -> float | None:
    """Return the TFLOP/s of a GPU by its data sheet; None where CARDS_TFLOPS has none."""
    import torch

    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device).replace("H200", "H100")  # whose cores are the same
    found = (tflops for card, tflops in CARDS_TFLOPS.items() if card in name)
    return next((of_16_bit if is_16_bit else of_32_bit for of_16_bit, of_32_bit in found), None)


class Work(NamedTuple):
    """What a run has to do."""

    num_steps: int
    step_flops: float  # forward and backward, on all ranks together
    num_ranks: int
    is_16_bit: bool


def describe_hours(work: Work, folder: RunFolder) -> str:
    """Return the hours of a run in words, and where they come from."""
    rows = folder.rows("train")[-_LAST_ROWS:]
    measured = [row["sec"] for row in rows if isinstance(row.get("sec"), float | int)]
    if measured:
        sec = statistics.median(measured)
        return (
            f"time: {_hours(work.num_steps * sec)} at {sec:.3g} s a step, as measured in"
            f" {folder.path}; validation, samples and saving come on top"
        )
    total_flops = work.num_steps * work.step_flops
    cards = f"{work.num_ranks} x" if work.num_ranks > 1 else "one"
    times: list[str] = []
    for name, tflops in CARDS_TFLOPS.items():
        per_second = 1e12 * tflops[0 if work.is_16_bit else 1] * ASSUMED_SHARE * work.num_ranks
        times.append(f"{_hours(total_flops / per_second)} on {cards} {name}")
    return (
        f"time, a rough estimate: {', '.join(times)}: {total_flops / 1e15:.3g} PFLOP at"
        f" {ASSUMED_SHARE:.0%} of what the card's data sheet says, which is assumed; validation,"
        " samples and saving come on top"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} h" if seconds >= 360 else f"{seconds / 60:.2g} min"
