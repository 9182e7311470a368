"""Windows and batches: what is covered, what moves, whose side it is."""

import numpy as np
import pytest

from csm_ft.data.examples import Piece
from csm_ft.data.split import ArrayKind, Clip, Split, clip_columns
from csm_ft.families.base import Draw
from csm_ft.families.moshi.arrange import arrange, shifted
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.data import collate, window
from csm_ft.families.moshi.family import MoshiFamily

FACTS = {
    "frame_sec": 0.08,
    "interleave": "drop",
    "text_padding_id": 3,
    "end_of_text_padding_id": 0,
    "num_codebooks": 2,
}
KINDS = {
    "codes": ArrayKind("<u2", 4),
    "words": ArrayKind("<f8", 4),
    "text_tokens": ArrayKind("<u4"),
}


def split_of(*lengths: int) -> Split:
    """Dialogues whose left codes count frames from 1, and whose right ones from 101."""
    ids = [f"{number}{'0' * 31}" for number in range(len(lengths))]
    clips = [Clip(i, "t", "", "", 0, n * 0.08, n * 0.08) for i, n in zip(ids, lengths, strict=True)]
    columns = clip_columns(clips)
    frames = [np.arange(1, n + 1)[:, None] + [0, 0, 100, 100] for n in lengths]
    columns["codes"] = np.concatenate(frames).astype("<u2")
    columns["codes_offsets"] = np.cumsum([0, *lengths])
    # The left one says 7 in the second frame of each dialogue, the right one 8 9 in the fourth.
    words = np.array([[0.1, 0.2, 0, 1], [0.25, 0.4, 1, 2]])
    columns["words"] = np.concatenate([words for _ in lengths])
    columns["words_offsets"] = np.arange(len(lengths) + 1) * 2
    columns["text_tokens"] = np.array([7, 8, 9] * len(lengths), "<u4")
    columns["text_tokens_offsets"] = np.arange(len(lengths) + 1) * 3
    return Split("train", columns, KINDS, FACTS)


def config_of(**options: object) -> MoshiConfig:
    return MoshiConfig(**{"window_sec": 0.8, "val_window_sec": 0.8, "min_window_sec": 0, **options})


def pieces(split: Split, config: MoshiConfig, *, evaluate: bool) -> list[tuple[int, int, int]]:
    examples = arrange(split, config, evaluate=evaluate)
    found = [next(examples.of(index)) for index in range(len(examples))]
    return [(piece.row, piece.start, piece.stop) for piece in found]


def test_windows_cover_every_frame_once() -> None:
    split = split_of(25, 10, 3)
    wanted = [(0, 0, 10), (0, 10, 20), (0, 20, 25), (1, 0, 10), (2, 0, 3)]
    assert pieces(split, config_of(), evaluate=True) == wanted
    assert pieces(split, config_of(), evaluate=False) == wanted


def test_short_rest_is_left_out_of_training_only() -> None:
    split, config = split_of(25, 3), config_of(min_window_sec=0.48)
    assert pieces(split, config, evaluate=False) == [(0, 0, 10), (0, 10, 20), (1, 0, 3)]
    assert len(pieces(split, config, evaluate=True)) == 4


def test_cuts_move_between_epochs_and_no_length_changes() -> None:
    split, config = split_of(25), config_of()
    starts = set()
    for epoch in range(30):
        first, second, rest = (
            shifted(split, Piece(0, *place), config, f"0/{epoch}")
            for place in ((0, 10), (10, 20), (20, 25))
        )
        assert (first.stop, second.start) == (second.start, first.start + 10)
        assert second.stop == first.start + 20 <= 25
        assert (rest.start, rest.stop) in ((0, 5), (20, 25))
        starts.add(first.start)
    assert starts == set(range(6))


def test_short_dialogue_stays_where_it_is() -> None:
    split = split_of(7)
    assert shifted(split, Piece(0, 0, 7), config_of(), "0/1") == Piece(0, 0, 7)


def test_side_decides_text_and_voice() -> None:
    split = split_of(6)
    left, right = (window(split, Piece(0, 0, 6, side=side)) for side in (0, 1))
    assert left[0].tolist() == [0, 7, 3, 3, 3, 3]
    assert right[0].tolist() == [3, 3, 0, 8, 9, 3]
    assert left[1].tolist() == right[3].tolist() == [1, 2, 3, 4, 5, 6]
    assert left[3].tolist() == right[1].tolist() == [101, 102, 103, 104, 105, 106]


def test_both_channels_are_two_examples() -> None:
    split, config = split_of(6, 12), config_of(moshi_channel="both")
    examples = arrange(split, config, evaluate=True)
    assert len(examples) == 6
    assert len({examples.id(index) for index in range(6)}) == 6
    batch = collate(examples, [0, 1], config, draw=None)
    assert batch.codes[0, 1].tolist() == batch.codes[1, 3].tolist()


def test_text_is_absent_where_sound_is() -> None:
    split, config = split_of(6, 3), config_of()
    batch = collate(arrange(split, config, evaluate=True), [0, 1], config, draw=None)
    assert ((batch.codes == -1).all(1) == (batch.codes == -1).any(1)).all()
    assert (batch.codes[1, 0] == -1).tolist() == [False] * 3 + [True] * 4
    assert batch.num_positions == 7 + 4  # a column more than frames, for the delay


def test_validation_scores_a_share_of_the_columns() -> None:
    split, config = split_of(25, 14, 31), config_of(val_depth_fraction=0.25)
    examples, family = arrange(split, config, evaluate=True), MoshiFamily()
    together = family.collate_scored(examples, [0, 1, 2], config)
    assert together.is_estimate
    assert len(together.rows) == len(family.collate(examples, [0, 1, 2], config, draw=None).rows)
    assert 0.2 < len(together.depth_rows) / len(together.rows) < 0.3
    for place in range(3):
        alone = family.collate_scored(examples, [place], config_of(val_depth_fraction=0.25, seed=5))
        own = together.sequence[together.depth_places] == place
        start = place * together.codes.shape[2]
        assert (together.depth_rows[own] - start).tolist() == alone.depth_rows.tolist()
        weights = together.depth_weights[own]
        assert weights.sum().item() == pytest.approx(alone.num_positions)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_example_is_the_same_in_any_micro_batch(fraction: float) -> None:
    split, config = split_of(25, 14, 31), config_of(depth_fraction=fraction)
    examples, draw = arrange(split, config, evaluate=False), Draw(3, 2)
    together = collate(examples, [0, 3, 5], config, draw=draw)
    for place, index in enumerate((0, 3, 5)):
        alone = collate(examples, [index], config, draw=draw)
        width = alone.codes.shape[2]
        assert (alone.codes[0] == together.codes[place, :, :width]).all()
        own = together.sequence[together.depth_places] == place
        start = place * together.codes.shape[2]
        assert (together.depth_rows[own] - start).tolist() == alone.depth_rows.tolist()
        for part, counts in alone.counts.items():
            assert counts[0] == together.counts[part][place]
