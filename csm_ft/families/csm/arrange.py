"""How clips become CSM's examples, and how long these are.

Imports no torch, as a sweep's orchestrator counts them.
"""

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.examples import Examples, arrange
from csm_ft.data.split import Split
from csm_ft.families.csm.config import MAX_POSITIONS, CsmConfig


def costs(split: Split) -> NDArray[np.int64]:
    """Positions of each clip: text tokens + frames + EOS frame."""
    return split.num_text_tokens + split.num_frames + 1


def arrange_csm(split: Split, config: CsmConfig, *, evaluate: bool) -> Examples:
    """Arrange a split for training as the options say, or for the yardstick.

    Which no searched option changes.
    """
    if evaluate:
        return arrange(
            split, costs(split), max_positions=MAX_POSITIONS, loss_turns=config.val_turns
        )
    return arrange(
        split, costs(split), max_positions=config.context_positions, loss_turns=config.loss_turns
    )
