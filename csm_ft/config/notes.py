"""From when a clip is noted as implausible."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NoteLimits:
    """Thresholds of the notes; options of pretokenize.py, with the same names after `note_`."""

    quiet_dbfs: float = -45.0
    clipped_share: float = 0.005
    silent_share: float = 0.75
    mix_loss_db: float = 6.0
    chars_per_sec_factor: float = 0.0  # 0 = from the spread of the clips
