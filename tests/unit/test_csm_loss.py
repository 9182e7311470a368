"""The amortised, batched loss against an obvious slow one: one clip, one frame, one codebook at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from csm_ft.families.base import Draw
from csm_ft.families.csm.data import collate, depth_draw
from csm_ft.families.csm.model import CsmModel
from tests.splits import FakeSplit, examples_of, make_model, make_split

SPLIT = make_split([12, 5, 30, 1, 17, 9, 22, 3])


def slow_clip_nats(model: CsmModel, split: FakeSplit, index: int) -> tuple[float, list[float]]:
    """Nats of codebook 0 over all frames, and of codebooks 1.. for each frame, straight from the definition in Sesame's blog."""
    codes = torch.from_numpy(split.codes(index).astype(np.int64))
    codes = torch.cat([codes, torch.zeros_like(codes[:1])])
    text = torch.from_numpy(split.text_tokens(index).astype(np.int64))
    vocab = model.size.audio_vocab_size
    frames = torch.stack([sum(model.audio_embeddings.weight[c + k * vocab] for k, c in enumerate(row)) for row in codes])
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
    batch = collate(examples_of(SPLIT), range(len(SPLIT)), depth_fraction=0.25, draw=Draw(seed=1, epoch=2))
    with torch.no_grad():
        loss = model(batch)
        for index in range(len(SPLIT)):
            c0, depth = slow_clip_nats(model, SPLIT, index)
            rows, weights = depth_draw(len(depth) - 1, 0.25, Draw(1, 2), SPLIT.ids[index])
            assert float(loss["c0"][index]) == pytest.approx(c0, rel=1e-4)
            assert float(loss["depth"][index]) == pytest.approx(float(np.dot(np.array(depth)[rows], weights)), rel=1e-4)


def gradient(model: CsmModel, micro_batches: list[list[int]], fraction: float, draw: Draw | None) -> torch.Tensor:
    model.zero_grad()
    batches = [collate(examples_of(SPLIT), indices, depth_fraction=fraction, draw=draw) for indices in micro_batches]
    counts = {part: sum(int(b.counts[part].sum()) for b in batches) for part in ("c0", "depth")}
    for batch in batches:
        loss = model(batch)
        sum(loss[part].sum() / counts[part] for part in loss).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_micro_batches_and_neighbours_do_not_change_the_gradient() -> None:
    model, draw = make_model(), Draw(0, 0)
    whole = gradient(model, [[0, 1, 2, 3, 4, 5, 6, 7]], 0.25, draw)
    for cut in ([[0, 1, 2, 3], [4, 5, 6, 7]], [[i] for i in range(8)], [[7, 2], [5, 0, 3], [1], [6, 4]]):
        difference = (gradient(model, cut, 0.25, draw) - whole).norm() / whole.norm()
        assert difference < 1e-5


def test_the_amortised_gradient_is_unbiased() -> None:
    model = make_model()
    full = gradient(model, [list(range(8))], 1.0, None)
    draws = torch.stack([gradient(model, [list(range(8))], 0.2, Draw(0, epoch)) for epoch in range(300)])
    mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    one_off = (draws[0] - full).norm() / full.norm()
    assert one_off > 0.05, "one draw differs, or this test shows nothing"
    assert (mean - full).norm() / full.norm() < one_off / 8
    moving = error > 1e-6
    assert ((mean - full).abs()[moving] / error[moving] < 5).float().mean() > 0.999


@pytest.mark.parametrize("num_frames", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("fraction", [1 / 16, 0.5, 1.0])
def test_draws_keep_the_eos_frame_and_expect_the_true_number(num_frames: int, fraction: float) -> None:
    rows, weights = depth_draw(num_frames, fraction, Draw(0, 0), "a")
    assert rows[-1] == num_frames
    assert weights[-1] == 1.0
    assert len(set(rows.tolist())) == len(rows) == min(num_frames, max(1, round(fraction * num_frames))) + 1
    assert weights.sum() == pytest.approx(num_frames + 1)


def test_draws_depend_on_seed_epoch_and_clip_only() -> None:
    def drawn(seed: int, epoch: int, clip: str) -> list[int]:
        return depth_draw(200, 0.1, Draw(seed, epoch), clip)[0].tolist()

    assert drawn(0, 0, "a") == drawn(0, 0, "a")
    assert len({tuple(drawn(*key)) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}) == 4


def test_every_frame_is_drawn_equally_often() -> None:
    times = np.zeros(20)
    for epoch in range(4000):
        times[depth_draw(20, 0.2, Draw(0, epoch), "a")[0][:-1]] += 1
    assert times == pytest.approx(np.full(20, 800), abs=5 * (4000 * 0.2 * 0.8) ** 0.5)


def test_training_log_probabilities_are_those_of_generation() -> None:
    """Greedy generation picks, at every codebook, the code that the training loss finds likeliest."""
    from csm_ft.families.base import Prompt, SamplingOptions

    class Tokens:
        def encode(self, text: str, speaker: str | None) -> np.ndarray:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) % 40

    model = make_model(seed=5)
    prompts = [Prompt("a", "hello", ""), Prompt("b", "something longer", "")]
    samples = model.sample(prompts, tokenizer=Tokens(), options=SamplingOptions(12, 0.0, 0, 0))
    for prompt, sample in zip(prompts, samples, strict=True):
        split = make_split([len(sample.codes)])
        split._codes = [sample.codes]
        split._text = [Tokens().encode(prompt.text, None)]
        split.num_text_tokens = np.array([len(split._text[0])])
        batch = collate(examples_of(split), [0], depth_fraction=1.0, draw=None)
        with torch.no_grad():
            frames = model.embed_codes(batch.codes)
            hidden = model.backbone_hidden(model.embed(batch, frames)).flatten(0, 1)[batch.frame_positions - 1]
            c0 = model.codebook0_head(hidden).argmax(-1)
            depth = model.depth_logits(hidden, frames).argmax(-1)
        again = torch.cat([c0[:, None], depth], dim=1)[: len(sample.codes)]
        np.testing.assert_array_equal(again.numpy(), sample.codes.astype(np.int64))
