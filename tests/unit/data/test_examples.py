"""Clips to examples: turns joined oldest first, cut between turns, never across a hole.

Every turn in one example.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.config import ConfigError
from csm_ft.families import arrange as arrange_for
from csm_ft.families.csm.arrange import costs
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from tests.helpers.splits import FakeSplit, examples_of, make_model, make_split


def talk(
    turns: list[tuple[str, int]], frames: int = 5, speakers: list[str] | None = None
) -> FakeSplit:
    """A split with these (conversation, turn), in this order of rows."""
    split = make_split([frames] * len(turns))
    split.num_text_tokens = np.full(len(turns), 4)
    split._text = [np.arange(4, dtype=np.uint32) for _ in turns]
    split.conversations = [name for name, _ in turns]
    split.turns = np.array([number for _, number in turns], dtype=np.int32)
    split.speakers = speakers or []
    return split


def rows(split: FakeSplit, **options: int | str) -> list[list[int]]:
    examples = examples_of(split, **options)
    return [[row for row, _ in examples.turns(i)] for i in range(len(examples))]


def test_turns_are_joined_in_their_order_whatever_that_of_the_rows() -> None:
    assert rows(talk([("b", 1), ("a", 0), ("a", 2), ("b", 0), ("a", 1), ("", 0), ("", 0)])) == [
        [3, 0],
        [1, 4, 2],
        [5],
        [6],
    ]


def test_a_hole_is_never_bridged() -> None:
    assert rows(talk([("a", 0), ("a", 1), ("a", 3), ("a", 4), ("a", 9)])) == [[0, 1], [2, 3], [4]]


def test_long_conversations_are_cut_between_turns_and_nothing_is_lost() -> None:
    split = talk([("a", i) for i in range(7)])  # 10 positions each: 4 text tokens, 5 frames, EOS
    assert rows(split, max_positions=30) == [[0, 1, 2], [3, 4, 5], [6]]
    assert rows(split, max_positions=29) == [[0, 1], [2, 3], [4, 5], [6]]
    assert rows(split, max_positions=3) == [
        [i] for i in range(7)
    ], "a turn longer than that stands alone"
    examples = examples_of(split, max_positions=30)
    assert examples.costs.tolist() == [30, 30, 10]
    assert examples.num_frames.tolist() == [15, 15, 5]
    assert examples.id(1) == f"{split.ids[3]}/3"


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 6)), min_size=1, max_size=20
    ),
    st.integers(1, 60),
)
def test_every_turn_is_in_exactly_one_example(
    turns: list[tuple[str, int]], max_positions: int
) -> None:
    split = talk(turns)
    found = rows(split, max_positions=max_positions)
    assert sorted(row for example in found for row in example) == list(range(len(turns)))
    for example in found:
        assert len({turns[row][0] for row in example}) == 1
        assert all(turns[b][1] == turns[a][1] + 1 for a, b in itertools.pairwise(example))
        assert len(example) == 1 or costs(split)[example].sum() <= max_positions


def test_loss_turns_choose_what_is_learned() -> None:
    split = talk(
        [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("", 0)], speakers=["x", "y", "x", "y", "x"]
    )

    def learned(loss_turns: str) -> list[list[tuple[int, bool]]]:
        examples = examples_of(split, loss_turns=loss_turns)
        return [list(examples.turns(i)) for i in range(len(examples))]

    assert learned("all") == [[(0, True), (1, True), (2, True)], [(3, True)], [(4, True)]]
    assert learned("last") == [[(0, False), (1, False), (2, True)], [(3, True)], [(4, True)]]
    assert learned("speaker:x") == [
        [(0, True), (1, False), (2, True)],
        [(4, True)],
    ], "examples with nothing to learn are left out"
    with pytest.raises(
        ConfigError,
        match=r"--loss_turns speaker:z: .*there are x, y; choose among them, or --loss_turns all",
    ):
        learned("speaker:z")
    split.speakers = [""] * 5
    with pytest.raises(
        ConfigError, match="it has no speakers; name them in the metadata, or --loss_turns all"
    ):
        learned("speaker:x")


def test_a_batch_lays_turns_out_one_after_another() -> None:
    split = talk([("a", 0), ("a", 1), ("b", 0)], frames=3)
    batch = collate(examples_of(split, loss_turns="last"), [0, 1], depth_fraction=1.0, draw=None)
    assert batch.counts["c0"].tolist() == [4, 4]
    assert batch.counts["depth"].tolist() == [12, 12]
    assert (batch.num_positions, batch.num_padded, batch.max_positions) == (24, 32, 16)
    assert batch.text_positions.tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]
    assert batch.frame_positions.tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]
    assert batch.frame_weights.tolist() == [0] * 4 + [1] * 8
    assert batch.depth_rows.tolist() == list(range(4, 12))
    assert (batch.codes[[3, 7, 11]] == 0).all(), "each turn ends with an EOS frame"


def test_the_options_reach_the_arrangement_and_validation_is_free_of_them() -> None:
    split = talk([("a", i) for i in range(6)])
    config = CsmConfig(loss_turns="last", context_positions=20)
    assert arrange_for(split, config).is_target.tolist() == [False, True] * 3
    scored = arrange_for(split, config, evaluate=True)
    assert scored.is_target.all()
    assert len(scored) == 1
    assert arrange_for(split, CsmConfig(val_turns="last"), evaluate=True).is_target.sum() == 1


def test_a_conversation_longer_than_the_model_is_learned_whole() -> None:
    """130 turns, 3,250 positions.

    Two examples, and the loss of the second is that of its own turns alone.
    """
    split = talk([("a", i) for i in range(130)], frames=20)
    examples = examples_of(split)
    assert [len(list(examples.turns(i))) for i in range(len(examples))] == [81, 49]
    assert examples.costs.tolist() == [2025, 1225]
    model = make_model()
    with torch.no_grad():
        together = model(collate(examples, [0, 1], depth_fraction=1.0, draw=None))
        second = model(collate(examples, [1], depth_fraction=1.0, draw=None))
    assert together["c0"].isfinite().all()
    torch.testing.assert_close(together["c0"][1:], second["c0"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(together["depth"][1:], second["depth"], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_turns": "first"},
        {"val_turns": "speaker:"},
        {"context_positions": 0},
        {"context_positions": 4096},
    ],
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CsmConfig.model_validate(options)
