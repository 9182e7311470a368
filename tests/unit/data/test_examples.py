"""Clips to examples: turns joined oldest first, cut between turns, never across a hole."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.data.examples import Examples, Piece, make_examples, turns_before, whole_clips
from csm_ft.errors import ConfigError
from csm_ft.families.csm.arrange import costs
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from tests.helpers.splits import FakeSplit, examples_of, make_model, make_split


def talk(turns: list[tuple[str, int]], frames: int = 5, speakers: Sequence[str] = ()) -> FakeSplit:
    """A split with these (conversation, turn), in this order of rows."""
    return FakeSplit(
        [frames] * len(turns),
        [4] * len(turns),
        conversations=[name for name, _ in turns],
        turns=[number for _, number in turns],
        speakers=speakers,
    )


def turns_of(examples: Examples, index: int) -> list[tuple[int, bool]]:
    return [(piece.row, piece.is_target) for piece in examples.of(index)]


def rows(split: FakeSplit, **options: Any) -> list[list[int]]:
    examples = examples_of(split, **options)
    return [[piece.row for piece in examples.of(i)] for i in range(len(examples))]


def test_turns_are_joined_in_order() -> None:
    assert rows(talk([("b", 1), ("a", 0), ("a", 2), ("b", 0), ("a", 1), ("", 0), ("", 0)])) == [
        [3, 0],
        [1, 4, 2],
        [5],
        [6],
    ]


def test_a_hole_is_never_bridged() -> None:
    assert rows(talk([("a", 0), ("a", 1), ("a", 3), ("a", 4), ("a", 9)])) == [[0, 1], [2, 3], [4]]


def test_long_conversations_are_cut_between_turns() -> None:
    split = talk([("a", i) for i in range(7)])  # 10 positions each: 4 text tokens, 5 frames, EOS
    assert rows(split, max_positions=30) == [[0, 1, 2], [3, 4, 5], [6]]
    assert rows(split, max_positions=29) == [[0, 1], [2, 3], [4, 5], [6]]
    assert rows(split, max_positions=3) == [[i] for i in range(7)], (
        "a turn longer than that stands alone"
    )
    examples = examples_of(split, max_positions=30)
    assert examples.costs.tolist() == [30, 30, 10]
    assert examples.pieces[:, 1:3].tolist() == [[0, 5]] * 7, "each piece is a whole clip"
    assert (len(examples), examples.num_pieces) == (3, 7)
    assert examples.id(1) == f"{split.ids[3]}/3"


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 6)), min_size=1, max_size=20
    ),
    st.integers(1, 60),
)
def test_every_turn_is_in_one_example(turns: list[tuple[str, int]], max_positions: int) -> None:
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
        return [turns_of(examples, i) for i in range(len(examples))]

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
    nobody = talk([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("", 0)])
    with pytest.raises(
        ConfigError, match="it has no speakers; name them in the metadata, or --loss_turns all"
    ):
        examples_of(nobody, loss_turns="speaker:x")


def test_whole_clips_are_examples_each() -> None:
    split = make_split([12, 5, 30])
    examples = whole_clips(split, costs(split))
    assert [list(examples.of(i)) for i in range(3)] == [
        [Piece(0, 0, 12)],
        [Piece(1, 0, 5)],
        [Piece(2, 0, 30)],
    ]
    np.testing.assert_array_equal(examples.costs, costs(split))
    assert [examples.id(i) for i in range(3)] == ["clip-0/0", "clip-1/1", "clip-2/2"]


def test_windows_of_clips_have_own_names() -> None:
    """A family may cut long clips: each window is an example of its own."""
    split = make_split([12, 5])
    windows = [[Piece(0, 0, 8)], [Piece(0, 8, 12, is_target=False), Piece(1, 0, 5)]]
    examples = make_examples(split, windows, [8, 9])
    assert [list(examples.of(i)) for i in range(2)] == windows
    assert [examples.id(i) for i in range(2)] == ["clip-0/0", "clip-0/0+8"]
    batch = collate(examples, [0, 1], depth_fraction=1.0, draw=None)
    np.testing.assert_array_equal(batch.codes[:8], split.array("codes", 0)[:8])
    np.testing.assert_array_equal(batch.codes[9:13], split.array("codes", 0)[8:])
    assert batch.counts["c0"].tolist() == [9, 6]


def test_turns_before_end_at_a_hole() -> None:
    split = talk([("a", 4), ("a", 0), ("b", 2), ("a", 3), ("a", 2), ("", 0)])
    assert turns_before(split, 0) == [4, 3]
    assert turns_before(split, 1) == []
    assert turns_before(split, 2) == [], "of another conversation"
    assert turns_before(split, 5) == []
    assert turns_before(make_split([3, 4]), 1) == []


def test_a_batch_lays_turns_in_line() -> None:
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


def test_validation_ignores_what_is_searched() -> None:
    split = talk([("a", i) for i in range(6)])
    config = CsmConfig(loss_turns="last", context_positions=20)

    def targets(config: CsmConfig, *, evaluate: bool) -> list[list[bool]]:
        examples = CsmFamily().arrange(split, config, evaluate=evaluate)
        return [[target for _, target in turns_of(examples, i)] for i in range(len(examples))]

    assert targets(config, evaluate=False) == [[False, True]] * 3
    assert targets(config, evaluate=True) == [[True] * 6]
    assert targets(CsmConfig(val_turns="last"), evaluate=True) == [[False] * 5 + [True]]


def test_a_very_long_conversation_is_learned() -> None:
    """130 turns take 3,250 positions: two examples, each with the loss of its own turns."""
    split = talk([("a", i) for i in range(130)], frames=20)
    examples = examples_of(split)
    assert [len(list(examples.of(i))) for i in range(len(examples))] == [81, 49]
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
