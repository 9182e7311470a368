"""Tag dropout: which clips of a batch are read without their tags."""

import numpy as np
import pytest

from csm_ft.data.split import ArrayKind
from csm_ft.families.base import Draw
from csm_ft.families.csm.data import CsmBatch, collate
from tests.helpers.splits import FakeSplit, examples_of

NUM_CLIPS, TAGGED, UNTAGGED = 200, 7, 3


def a_split() -> FakeSplit:
    """Clips whose tagged text is all ones, and whose untagged text is shorter and all zeros."""
    ones = [np.ones(TAGGED, np.uint32)] * NUM_CLIPS
    split = FakeSplit([4] * NUM_CLIPS, [TAGGED] * NUM_CLIPS, text=ones)
    split.kinds = {**split.kinds, "untagged_tokens": ArrayKind("<u4")}
    split._columns = {
        **split._columns,
        "untagged_tokens": np.zeros(UNTAGGED * NUM_CLIPS, np.uint32),
        "untagged_tokens_offsets": np.arange(NUM_CLIPS + 1, dtype=np.int64) * UNTAGGED,
    }
    return split


def batch_of(indices: list[int], share: float, draw: Draw | None) -> CsmBatch:
    examples = examples_of(a_split())
    return collate(examples, indices, depth_fraction=0.5, tag_dropout=share, draw=draw)


def dropped(indices: list[int], share: float, draw: Draw | None) -> set[int]:
    """Clips that are read without tags, each alone in a batch."""
    return {i for i in indices if not batch_of([i], share, draw).text_tokens.any()}


def test_the_asked_share_is_dropped() -> None:
    everyone = list(range(NUM_CLIPS))
    assert dropped(everyone, 0.0, Draw(0, 0)) == set()
    assert dropped(everyone, 1.0, Draw(0, 0)) == set(everyone)
    assert 0.15 < len(dropped(everyone, 0.25, Draw(0, 0))) / NUM_CLIPS < 0.35


def test_validation_drops_nothing() -> None:
    assert dropped(list(range(20)), 1.0, None) == set()


def test_draw_depends_on_seed_epoch_and_clip_only() -> None:
    some = list(range(40))
    first = dropped(some, 0.5, Draw(0, 0))
    assert first == dropped(some[::-1], 0.5, Draw(0, 0))
    assert first not in (dropped(some, 0.5, Draw(0, 1)), dropped(some, 0.5, Draw(1, 0)))
    together = batch_of(some, 0.5, Draw(0, 0))
    untagged = len(first) * UNTAGGED
    assert int((together.text_tokens == 0).sum()) == untagged


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_positions_count_the_text_that_is_read(share: float) -> None:
    batch = batch_of([0, 1], share, Draw(0, 0))
    assert batch.num_positions == len(batch.text_tokens) + len(batch.codes)
