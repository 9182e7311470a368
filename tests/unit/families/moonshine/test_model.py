"""Packed clips against clips alone and against transformers, in loss, gradient and text."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import MoonshineConfig as TheirConfig
from transformers import MoonshineForConditionalGeneration

from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.data import MoonshineBatch, collate_clips
from csm_ft.families.moonshine.model import (
    MoonshineModel,
    convolve,
    empty_model,
    init_weights,
    rotate,
    rotate_pairs,
    rotation,
    token_nats,
)
from csm_ft.families.moonshine.sample import most_likely, transcribe
from csm_ft.families.moonshine.size import (
    MIN_SAMPLES,
    PRESETS,
    MoonshineSize,
    conv_lengths,
    num_frames,
)

SIZE = MoonshineSize(64, 128, 2, 2, 4, 0.9, vocab_size=60)
LENGTHS = {"equal": (9000, 9000), "mixed": (16000, 11111, MIN_SAMPLES, 50001, 7000)}


def make_model(seed: int = 0) -> MoonshineModel:
    model = empty_model(SIZE)
    init_weights(model, seed)
    return model


def make_clips(
    lengths: tuple[int, ...],
) -> tuple[list[NDArray[np.int16]], list[NDArray[np.uint32]]]:
    random = np.random.default_rng(len(lengths))
    clips = [(random.normal(size=n) * 3000).astype(np.int16) for n in lengths]
    tokens = [np.append(random.integers(3, 60, size=n % 17), 2).astype(np.uint32) for n in lengths]
    return clips, tokens


def make_theirs(model: MoonshineModel) -> Any:
    values = {k: v for k, v in model.size.to_json().items() if k != "architectures"}
    theirs = MoonshineForConditionalGeneration(TheirConfig(**values)).eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    theirs.tie_weights()
    return theirs


def sound_of(clip: NDArray[np.int16]) -> torch.Tensor:
    return torch.from_numpy(clip.astype(np.float32) / 32768)[None]


def gradient(model: MoonshineModel, batches: list[MoonshineBatch]) -> torch.Tensor:
    model.zero_grad()
    for batch in batches:
        model(batch)["tokens"].sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("name", "millions"), [("tiny", 27_092_736), ("base", 61_513_920)])
def test_sizes_are_those_of_the_paper(name: str, millions: int) -> None:
    model = empty_model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == millions


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_loss_equals_clips_alone(lengths: tuple[int, ...]) -> None:
    model = make_model()
    clips, tokens = make_clips(lengths)
    with torch.no_grad():
        packed = model(collate_clips(clips, tokens))["tokens"]
        alone = [
            model(collate_clips([c], [t]))["tokens"][0] for c, t in zip(clips, tokens, strict=True)
        ]
    torch.testing.assert_close(packed, torch.stack(alone), rtol=2e-5, atol=2e-5)


def test_packed_gradient_equals_clips_alone() -> None:
    model = make_model()
    clips, tokens = make_clips(LENGTHS["mixed"])
    packed = gradient(model, [collate_clips(clips, tokens)])
    alone = gradient(model, [collate_clips([c], [t]) for c, t in zip(clips, tokens, strict=True)])
    assert float((packed - alone).norm() / alone.norm()) < 2e-5


def test_loss_and_logits_equal_transformers() -> None:
    model = make_model()
    theirs = make_theirs(model)
    clips, tokens = make_clips(LENGTHS["mixed"])
    with torch.no_grad():
        losses = model(collate_clips(clips, tokens))["tokens"]
        logits = model.logits(collate_clips(clips, tokens)).split([len(t) for t in tokens])
        for number, (clip, ids) in enumerate(zip(clips, tokens, strict=True)):
            labels = torch.from_numpy(ids.astype(np.int64))[None]
            expected = theirs(input_values=sound_of(clip), labels=labels)
            torch.testing.assert_close(logits[number], expected.logits[0], rtol=0, atol=2e-5)
            assert float(losses[number]) == pytest.approx(float(expected.loss) * len(ids), rel=1e-5)


def test_batch_is_transcribed_like_transformers_alone() -> None:
    model = make_model(seed=3)
    theirs = make_theirs(model)
    clips, _ = make_clips(LENGTHS["mixed"])
    found = transcribe(model, clips, max_tokens_per_sec=12)
    for clip, transcript in zip(clips, found, strict=True):
        cap = -(-len(clip) * 12 // 16000)
        written = theirs.generate(
            input_values=sound_of(clip),
            max_new_tokens=cap,
            do_sample=False,
            pad_token_id=2,
        )[0].tolist()[1:]
        expected = written[: written.index(2)] if 2 in written else written
        assert transcript.ids == expected
        assert transcript.is_complete == (2 in written)


def test_texts_that_end_at_any_place_are_those_of_clips_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against whole passes without caches; rows leave at the end and in the middle of groups."""
    monkeypatch.setattr("csm_ft.families.moonshine.sample._GROUP_SEC", 6.0)
    model = empty_model(replace(SIZE, vocab_size=8))
    init_weights(model, 6)
    random = np.random.default_rng(0)
    clips, _ = make_clips(tuple(random.integers(MIN_SAMPLES, 24000, 40).tolist()))
    found = transcribe(model, clips, max_tokens_per_sec=12)
    assert {one.is_complete for one in found} == {True, False}
    for clip, transcript in zip(clips, found, strict=True):
        ids: list[int] = []
        cap = -(-len(clip) * 12 // 16000)
        while len(ids) < cap:
            batch = collate_clips([clip], [np.array([*ids, 2], np.uint32)])
            token = int(model.logits(batch)[-1].argmax())
            if token == 2:
                break
            ids.append(token)
        assert transcript == (ids, len(ids) < cap)


def test_transcribing_leaves_the_mode_alone() -> None:
    model = make_model().train()
    transcribe(model, make_clips((2000,))[0])
    assert model.training


def test_labels_are_smoothed_by_one_share_or_one_for_each() -> None:
    logits, targets = torch.randn(5, 60), torch.arange(5)
    shares = (0.2, 0.2, 0.1, 0.0, 0.5)
    found = token_nats(logits, targets, torch.tensor(shares))
    pairs = zip(logits, targets, strict=True)
    alone = [token_nats(*pair, share) for pair, share in zip(pairs, shares, strict=True)]
    torch.testing.assert_close(found, torch.stack(alone))
    assert float(found[0]) != pytest.approx(float(token_nats(logits, targets, 0.0)[0]))


@pytest.mark.parametrize("head_dim", [16, 18, 17])
def test_rotation_is_that_of_pairs(head_dim: int) -> None:
    """Of complex numbers, or for an odd width without them, gradient included."""
    heads = torch.randn(5, 3, head_dim, requires_grad=True)
    rotary = rotation(torch.arange(5), 12)
    expected = torch.cat([rotate_pairs(heads[..., :12], rotary), heads[..., 12:]], dim=-1)
    found = rotate(heads, rotary)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    weights = torch.randn(expected.shape)
    gradients = [torch.autograd.grad((x * weights).sum(), heads)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_samples", [0, 100, MIN_SAMPLES - 1, MIN_SAMPLES, 1278, 1279, 16000])
def test_frames_are_those_of_the_convolutions(num_samples: int) -> None:
    expected = 0
    if num_samples >= MIN_SAMPLES:
        model = make_model()
        sound = torch.zeros(1, 1, num_samples)
        encoder = model.encoder
        with torch.no_grad():
            expected = encoder.conv3(encoder.conv2(encoder.conv1(sound))).shape[-1]
    assert num_frames(num_samples) == conv_lengths(num_samples)[2] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "whisper"}, "'whisper' is not moonshine"),
        ({"encoder_num_attention_heads": 2}, "encoder_num_attention_heads 2 beside"),
        ({"decoder_num_key_value_heads": 1}, "decoder_num_key_value_heads 1 beside"),
        ({"hidden_size": 65}, "dim 65 is not a multiple of heads 4"),
        ({"partial_rotary_factor": 0.95}, "15 rotary dimensions per head"),
    ],
)
def test_sizes_that_cannot_run_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MoonshineSize.from_json({**SIZE.to_json(), **change}, "config.json")


def test_size_survives_its_config() -> None:
    assert MoonshineSize.from_json(SIZE.to_json(), "config.json") == SIZE


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(7, 3, True), (3, 2, True), (5, 5, False)])
def test_convolution_of_rows_is_that_of_torch(kernel: int, stride: int, bias: bool) -> None:
    """Values and gradients, whatever is left over after the last frame."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv1d(4, 6, kernel, stride, bias=bias)
    for length in range(kernel + -kernel % stride, 40, stride):
        rows = torch.randn(length, 4, requires_grad=True)
        inputs = [rows, *convolution.parameters()]
        both = convolve(rows, convolution), convolution(rows.T[None])[0].T
        torch.testing.assert_close(*both, rtol=0, atol=1e-5)
        gradients = [torch.autograd.grad(found.square().sum(), inputs) for found in both]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocab_size", [1, 33, 300, 4096])
def test_most_likely_is_the_first_of_the_highest(vocab_size: int) -> None:
    """Of few levels, so that many ids are equally likely."""
    generator = torch.Generator().manual_seed(vocab_size)
    for levels in (2, 1000):
        logits = torch.randint(levels, (vocab_size, 9), generator=generator).float()
        assert torch.equal(most_likely(logits), torch.from_numpy(logits.numpy().argmax(0)))
