"""The comparison that an export has to pass: what it sees, and what it must not mind."""

import dataclasses

import numpy as np
import torch

from csm_ft.families.csm.data import collate
from csm_ft.families.csm.export.probe import (
    TOLERANCE,
    Difference,
    Logits,
    difference,
    logits_of,
    probes_of,
    random_probes,
)
from tests.helpers.splits import SIZE, FakeSplit, examples_of, make_model, make_split


def test_logits_give_the_training_loss() -> None:
    """Teacher-forced on a clip, their cross-entropy is the loss of `forward`, EOS included."""
    model, split = make_model(seed=2), make_split([9])
    probe = probes_of(split, SIZE)[0]
    said = logits_of(model, [probe])
    c0 = torch.nn.functional.cross_entropy(said.c0, probe.codes[:, 0], reduction="sum")
    depth = torch.nn.functional.cross_entropy(
        said.depth.flatten(0, 1), probe.codes[:, 1:].flatten(), reduction="sum"
    )
    with torch.no_grad():
        loss = model(collate(examples_of(split), [0], depth_fraction=1.0, draw=None))
    torch.testing.assert_close(c0, loss["c0"].sum())
    torch.testing.assert_close(depth, loss["depth"].sum())


def test_probes_are_first_or_random_clips() -> None:
    split = make_split([5, 200, 7])
    first, second = probes_of(split, SIZE)
    assert (len(first.codes), len(second.codes)) == (6, 65), (
        "long ones are cut, all end with the EOS frame"
    )
    np.testing.assert_array_equal(first.codes[:-1].numpy(), split.array("codes", 0))
    assert not first.codes[-1].any()
    np.testing.assert_array_equal(first.text.numpy(), split.array("text_tokens", 0))
    empty = FakeSplit(np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    for a, b in zip(probes_of(empty, SIZE), random_probes(SIZE), strict=True):
        assert torch.equal(a.codes, b.codes), "the same on every machine"
    assert all(
        int(p.codes.max()) < SIZE.audio_vocab_size and int(p.text.max()) < SIZE.text_vocab_size
        for p in random_probes(SIZE)
    )


def test_tolerance_of_differences() -> None:
    model, probes = make_model(), random_probes(SIZE)
    expected = logits_of(model, probes)
    assert difference(expected, expected) == Difference(
        0.0, 0.0, expected.c0.std().item(), expected.depth.std().item()
    )
    noise = 1e-5 * torch.randn(expected.c0.shape, generator=torch.Generator().manual_seed(0))
    assert difference(expected, Logits(expected.c0 + noise, expected.depth)).is_same
    for part in ("c0", "depth"):
        logits = getattr(expected, part)
        for wrong in (
            logits + 2 * TOLERANCE * logits.std(),
            torch.full_like(logits, float("nan")),
            logits.flip(0),
        ):
            assert not difference(expected, dataclasses.replace(expected, **{part: wrong})).is_same
    assert "c0 logits differ by at most 0.0e+00, depth 0.0e+00" in str(
        difference(expected, expected)
    )
