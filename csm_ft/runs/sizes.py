"""What a run needs of disk and memory. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Bytes of one run."""

    weights_bytes: int  # one saved set of weights, or adapters
    optimizer_bytes: int  # saved beside them in a checkpoint to resume from
    memory_bytes: int  # weights, gradients and the optimiser's state, in the device's memory

    @property
    def kept_bytes(self) -> int:
        """What a run keeps on disk: its best weights, and one checkpoint to resume from."""
        return 2 * self.weights_bytes + self.optimizer_bytes

    @property
    def draft_bytes(self) -> int:
        """What a save takes besides, before the old checkpoint is deleted."""
        return self.weights_bytes + self.optimizer_bytes
