"""How clips become CSM's examples, and how long these are. Imports no torch."""

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.examples import Examples, join_turns
from csm_ft.data.split import Split
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.size import MAX_POSITIONS


def costs(split: Split) -> NDArray[np.int64]:
    """Return the positions of each clip: text tokens + frames + EOS frame, [n]."""
    return split.lengths("text_tokens") + split.lengths("codes") + 1


def arrange(split: Split, config: CsmConfig, *, evaluate: bool) -> Examples:
    """Arrange a split as the options say; for validation, as no searched option can change."""
    if evaluate:
        return join_turns(
            split, costs(split), max_positions=MAX_POSITIONS, loss_turns=config.val_turns
        )
    return join_turns(
        split,
        costs(split),
        max_positions=config.context_positions,
        loss_turns=config.loss_turns,
    )
