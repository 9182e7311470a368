"""The amortised, batched loss against a slow one: one clip, one frame, one codebook at a time."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.clips import Kind, lengths
from benchmarks.data import depth_frames_ratio
from csm_ft.data.examples import Examples
from csm_ft.families.base import Draw, Term, weighted_loss
from csm_ft.families.csm.data import collate, depth_draw, scored_draw
from csm_ft.families.csm.model import CsmModel
from tests.helpers.splits import FakeSplit, examples_of, make_model, make_split

NUM_DRAWS = 120  # the mean of so many is 11 times nearer than one
PARTS = ("c0", "depth")
SPLIT = make_split([12, 5, 30, 1, 17, 9, 22, 3])


def slow_clip_nats(model: CsmModel, split: FakeSplit, index: int) -> tuple[float, list[float]]:
    """Nats of codebook 0 over all frames, and of codebooks 1.. for each frame.

    Straight from the definition in Sesame's blog.
    """
    codes = torch.from_numpy(split.array("codes", index).astype(np.int64))
    codes = torch.cat([codes, torch.zeros_like(codes[:1])])
    text = torch.from_numpy(split.array("text_tokens", index).astype(np.int64))
    vocab = model.size.audio_vocab_size
    frames = torch.stack(
        [
            sum(model.audio_embeddings.weight[c + k * vocab] for k, c in enumerate(row))
            for row in codes
        ]
    )
    hidden = model.backbone(torch.cat([model.text_embeddings(text), frames])[None])[0]
    c0, depth = 0.0, []
    for t, row in enumerate(codes):
        state = hidden[len(text) + t - 1]
        c0 += float(F.cross_entropy(model.codebook0_head(state)[None], row[:1]))
        inputs = [state]
        nats = 0.0
        for k in range(1, len(row)):
            inputs.append(model.audio_embeddings.weight[row[k - 1] + (k - 1) * vocab])
            output = model.decoder(model.projection(torch.stack(inputs))[None])[0, -1]
            nats += float(F.cross_entropy((output @ model.audio_head[k - 1])[None], row[k : k + 1]))
        depth.append(nats)
    return c0, depth


def test_loss_equals_the_slow_definition() -> None:
    model = make_model()
    batch = collate(
        examples_of(SPLIT), range(len(SPLIT)), depth_fraction=0.25, draw=Draw(seed=1, epoch=2)
    )
    with torch.no_grad():
        loss = model(batch)
        for index in range(len(SPLIT)):
            c0, depth = slow_clip_nats(model, SPLIT, index)
            rows, weights = depth_draw(len(depth) - 1, 0.25, f"1/2/{SPLIT.ids[index]}")
            assert float(loss["c0"][index]) == pytest.approx(c0, rel=1e-4)
            assert float(loss["depth"][index]) == pytest.approx(
                float(np.dot(np.array(depth)[rows], weights)), rel=1e-4
            )


def gradient(
    model: CsmModel,
    examples: Examples,
    micro_batches: list[list[int]],
    fraction: float,
    draw: Draw | None,
    parts: Sequence[str] = PARTS,
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one optimiser step, as the loop makes them."""
    model.zero_grad()
    batches = [
        collate(examples, indices, depth_fraction=fraction, draw=draw) for indices in micro_batches
    ]
    counts = {part: sum(int(b.counts[part].sum()) for b in batches) for part in parts}
    total = 0.0
    for batch in batches:
        loss = model(batch)
        sums = {part: loss[part].sum() for part in parts}
        value = weighted_loss([Term(1.0, {part: 1.0}) for part in parts], sums, counts)
        value.backward()
        total += value.item()
    return total, torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()]
    )


def conversations() -> Examples:
    """Eight examples of one to four turns; only the last turn of each is learned."""
    frames = [6, 3, 9, 4, 12, 5, 2, 7, 8, 3, 10, 6, 4, 5, 3, 6]
    names = "aaaabbbccdddeefg"
    turns = [names[:i].count(name) for i, name in enumerate(names)]
    split = make_split(frames, conversations=list(names), turns=turns)
    return examples_of(split, loss_turns="last")


@pytest.mark.parametrize(
    "examples", [examples_of(SPLIT), conversations()], ids=["clips", "conversations"]
)
def test_micro_batches_never_change_the_gradient(examples: Examples) -> None:
    model, draw = make_model(), Draw(0, 0)
    everything = list(range(len(examples)))
    loss, whole = gradient(model, examples, [everything], 0.25, draw)
    two = [everything[: len(everything) // 2], everything[len(everything) // 2 :]]
    for cut in (two, [[i] for i in everything], [[6, 2], [5, 0, 3], [1], [*everything[7:], 4]]):
        cut_loss, cut_gradient = gradient(model, examples, cut, 0.25, draw)
        assert cut_loss == pytest.approx(loss, rel=1e-6)
        assert (cut_gradient - whole).norm() / whole.norm() < 1e-5


def test_codebook_0_learns_from_every_frame() -> None:
    model, examples, everything = make_model(), examples_of(SPLIT), [list(range(8))]
    full_loss, full = gradient(model, examples, everything, 1.0, None, ("c0",))
    for epoch in range(3):
        loss, drawn = gradient(model, examples, everything, 0.2, Draw(0, epoch), ("c0",))
        assert loss == full_loss
        torch.testing.assert_close(drawn, full)  # sums of the table's gradient have other orders


def test_amortised_loss_and_gradient_are_unbiased() -> None:
    """Both parts together: that of codebook 0 is the same in every draw."""
    model, examples, everything = make_model(), examples_of(SPLIT), [list(range(8))]
    full_loss, full = gradient(model, examples, everything, 1.0, None, PARTS)
    drawn = [
        gradient(model, examples, everything, 0.2, Draw(0, epoch), PARTS)
        for epoch in range(NUM_DRAWS)
    ]
    losses, draws = np.array([loss for loss, _ in drawn]), torch.stack([g for _, g in drawn])
    assert losses.std() > 1e-3, "draws differ, or this test shows nothing"
    assert abs(losses.mean() - full_loss) < 4 * losses.std() / len(losses) ** 0.5
    mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    one_off = (draws[0] - full).norm() / full.norm()
    assert one_off > 0.05, "one draw differs, or this test shows nothing"
    assert (mean - full).norm() / full.norm() < one_off / 6
    moving = error > 1e-6
    assert ((mean - full).abs()[moving] / error[moving] < 5).float().mean() > 0.999


@pytest.mark.parametrize("num_frames", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("fraction", [1 / 16, 0.5, 1.0])
def test_draws_expect_the_true_number(num_frames: int, fraction: float) -> None:
    rows, weights = depth_draw(num_frames, fraction, "0/0/a")
    assert len(set(rows.tolist())) == len(rows) == max(1, round(fraction * (num_frames + 1)))
    assert 0 <= rows.min() <= rows.max() <= num_frames
    assert weights.sum() == pytest.approx(num_frames + 1)


@pytest.mark.parametrize("kind", ["lj", "conversation"])
def test_no_more_frames_are_drawn_than_asked_for(kind: Kind) -> None:
    assert depth_frames_ratio(lengths(kind, 2000)[0]) <= 1.02


def test_validation_always_scores_the_eos_frame() -> None:
    rows, weights = scored_draw(20, 0.2, "a")
    assert (rows[-1], weights[-1]) == (20, 1.0)
    assert len(set(rows.tolist())) == len(rows) == 5
    assert weights.sum() == pytest.approx(21)


def test_draws_depend_on_their_key_only() -> None:
    def drawn(seed: int, epoch: int, clip: str) -> list[int]:
        return depth_draw(200, 0.1, f"{seed}/{epoch}/{clip}")[0].tolist()

    assert drawn(0, 0, "a") == drawn(0, 0, "a")
    assert (
        len({tuple(drawn(*key)) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))})
        == 4
    )


def test_repeated_draw_takes_other_frames() -> None:
    examples = examples_of(make_split([60]))

    def rows(draw: Draw) -> list[list[int]]:
        batch = collate(examples, [0, 0], depth_fraction=0.2, draw=draw)
        first, second = batch.depth_rows.split(len(batch.depth_rows) // 2)
        return [first.tolist(), (second - 61).tolist()]

    first, second = rows(Draw(0, 0, (0, 1)))
    assert first != second
    assert rows(Draw(0, 0)) == [first, first], "the first draw of an epoch is that without weights"
    assert rows(Draw(0, 0, (1, 0))) == [second, first]


def test_every_frame_is_drawn_equally_often() -> None:
    """Also the EOS frame, which is the last one."""
    times = np.zeros(20)
    for epoch in range(4000):
        times[depth_draw(19, 0.2, f"0/{epoch}/a")[0]] += 1
    assert times == pytest.approx(np.full(20, 800), abs=5 * (4000 * 0.2 * 0.8) ** 0.5)
