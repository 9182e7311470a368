"""Early stopping: whether the validations of a run have stopped improving. Imports no torch.

Time is measured in training examples seen, so that the batch size does not matter. Values are
costs, of which lower is better: of a metric whose highest value is the best, its negative.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Improvement(NamedTuple):
    """The last validation that improved a metric, and how far the run was validated since."""

    metric: str
    value: float
    examples: float  # seen at that validation
    validated_examples: float  # seen at the latest validation

    @property
    def waited_examples(self) -> float:
        """Examples seen, up to the latest validation, without an improvement."""
        return self.validated_examples - self.examples


def follow(
    last: Improvement | None, metric: str, value: float, *, examples: float, min_delta: float
) -> Improvement:
    """Return the last improvement after one more validation.

    It improves if it is lower than the last improvement by more than `min_delta`; so many small
    gains count as soon as they add up. The first validation of a metric always does.
    """
    if last is None or last.metric != metric or value < last.value - min_delta:
        return Improvement(metric, value, examples, examples)
    return last._replace(validated_examples=examples)


def stopping_point(
    validations: Iterable[tuple[float, float]], *, patience_examples: float, min_delta: float = 0.0
) -> float | None:
    """Return the examples after which a run would have stopped, or None.

    `validations` are (examples seen, value), in order.
    """
    last: Improvement | None = None
    for examples, value in validations:
        last = follow(last, "", value, examples=examples, min_delta=min_delta)
        if last.waited_examples >= patience_examples:
            return examples
    return None
