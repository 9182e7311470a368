"""The streaming models: batches against clips alone and against transformers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import MoonshineStreamingConfig as TheirConfig
from transformers import MoonshineStreamingForConditionalGeneration

from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.data import MoonshineBatch, collate_clips
from csm_ft.families.moonshine.model import Layout, init_weights
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.streaming import Blocks, StreamingModel, asinh, window_mask
from csm_ft.families.moonshine.streaming_size import (
    STREAMING_PRESETS,
    Block,
    StreamingSize,
    chosen_streaming_size,
    default_windows,
    num_frames,
)
from csm_ft.families.moonshine.weights import empty_model

# Widths, heads and windows of the two halves differ, as in streaming-small.
SIZE = StreamingSize(
    encoder=Block(60, 96, 4, 16),
    decoder=Block(48, 128, 2, 24),
    encoder_layers=3,
    decoder_layers=2,
    windows=((16, 4), (8, 0), (5, 3)),
    vocab_size=60,
)
LENGTHS = (16000, 11120, 960, 40000, 7040)  # multiples of 80, as transformers wants them


def make_model(seed: int = 0) -> StreamingModel:
    model = empty_model(SIZE)
    init_weights(model, seed)
    for name, values in model.named_parameters():
        if "gamma" in name or name.endswith("bias"):  # zeros would hide that they are not used
            torch.nn.init.normal_(values, 0, 0.2, generator=torch.Generator().manual_seed(seed))
    assert isinstance(model, StreamingModel)
    return model


def make_clips(
    lengths: tuple[int, ...],
) -> tuple[list[NDArray[np.int16]], list[NDArray[np.uint32]]]:
    random = np.random.default_rng(len(lengths))
    clips = [(random.normal(size=n) * 3000).astype(np.int16) for n in lengths]
    tokens = [np.append(random.integers(3, 60, size=n % 17), 2).astype(np.uint32) for n in lengths]
    return clips, tokens


def heard(clip: NDArray[np.int16]) -> dict[str, torch.Tensor]:
    sound = torch.from_numpy(clip.astype(np.float32) / 32768)[None]
    return {"input_values": sound, "attention_mask": torch.ones_like(sound, dtype=torch.int64)}


@pytest.fixture(scope="module")
def theirs() -> Any:
    values = {k: v for k, v in SIZE.to_json().items() if k != "architectures"}
    model = MoonshineStreamingForConditionalGeneration(TheirConfig(**values)).eval()
    model.load_state_dict(make_model().state_dict(), strict=True)
    return model


def gradient(model: StreamingModel, batches: list[MoonshineBatch]) -> torch.Tensor:
    model.zero_grad()
    for batch in batches:
        model(batch)["tokens"].sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("streaming-tiny", 44_054_721),
        ("streaming-small", 140_135_225),
        ("streaming-medium", 271_403_137),
    ],
)
def test_sizes_are_the_published_ones(name: str, count: int) -> None:
    model = empty_model(STREAMING_PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == count


def test_loss_and_logits_equal_transformers(theirs: Any) -> None:
    model = make_model()
    clips, tokens = make_clips(LENGTHS)
    with torch.no_grad():
        losses = model(collate_clips(clips, tokens))["tokens"]
        logits = model.logits(collate_clips(clips, tokens)).split([len(t) for t in tokens])
        for number, (clip, ids) in enumerate(zip(clips, tokens, strict=True)):
            labels = torch.from_numpy(ids.astype(np.int64))[None]
            expected = theirs(**heard(clip), labels=labels)
            torch.testing.assert_close(logits[number], expected.logits[0], rtol=0, atol=2e-5)
            assert float(losses[number]) == pytest.approx(float(expected.loss) * len(ids), rel=1e-5)


def test_batch_is_transcribed_like_transformers_alone(theirs: Any) -> None:
    clips, _ = make_clips(LENGTHS)
    found = transcribe(make_model(), clips, max_tokens_per_sec=12)
    for clip, transcript in zip(clips, found, strict=True):
        cap = -(-len(clip) * 12 // 16000)
        written = theirs.generate(**heard(clip), max_new_tokens=cap, do_sample=False)
        ids = written[0].tolist()[1:]
        assert transcript.ids == (ids[: ids.index(2)] if 2 in ids else ids)
        assert transcript.is_complete == (2 in ids)


def test_batch_equals_clips_alone() -> None:
    """Lengths that are no multiples of anything, too."""
    model = make_model()
    clips, tokens = make_clips((16001, 11119, 895, 40079, 7000))
    batch = collate_clips(clips, tokens)
    alone = [collate_clips([c], [t]) for c, t in zip(clips, tokens, strict=True)]
    with torch.no_grad():
        expected = torch.cat([model(one)["tokens"] for one in alone])
        torch.testing.assert_close(model(batch)["tokens"], expected, rtol=2e-5, atol=2e-5)
    together, summed = gradient(model, [batch]), gradient(model, alone)
    assert torch.isfinite(together).all()
    assert float((together - summed).norm() / summed.norm()) < 2e-5


@pytest.mark.parametrize("window", [(16, 4), (16, 0), (1, 0), (5, 40), (300, 2)])
def test_blocks_attend_as_whole_clips_do(window: tuple[int, int]) -> None:
    """Values and gradients, against every frame of a clip beside every other, masked."""
    lengths = (70, 1, 32, 5, 101)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, sum(lengths), 2, 8, generator=generator, requires_grad=True)
    weights = torch.randn(sum(lengths), 2, 8, generator=generator)
    width = max(lengths)
    places = torch.cat([number * width + torch.arange(n) for number, n in enumerate(lengths)])
    found = Blocks.of(Layout(places, len(lengths), width), window).attend(*rows)
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(part.transpose(0, 1) for part in clip),
                attn_mask=window_mask(clip.shape[1], window, clip.device),
            ).transpose(0, 1)
            for clip in rows.split(lengths, dim=1)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    gradients = [
        torch.autograd.grad((heads * weights).sum(), rows)[0] for heads in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=2e-6)


def test_asinh_is_exact() -> None:
    sizes = torch.cat([torch.zeros(1), torch.logspace(-30, 4, 5001)])
    values = torch.cat([sizes, -sizes])
    expected = torch.asinh(values.double())
    torch.testing.assert_close(asinh(values).double(), expected, rtol=3e-7, atol=0)


def test_frame_sees_its_windows_only() -> None:
    """What follows later than the lookahead changes no frame; what is nearer does."""
    model = make_model().eval()
    (clip,), (ids,) = make_clips((32000,))
    changed = clip.copy()
    place = 60  # of the first frame that is different
    changed[place * 320 :] //= 2
    changed[place * 320 + 5] += 3000
    with torch.no_grad():
        one, other = (model.encoder(collate_clips([c], [ids])) for c in (clip, changed))
    differs = (one - other).abs().amax(1) > 0
    assert int(differs.nonzero()[0]) == place - SIZE.lookahead_frames


@pytest.mark.parametrize("num_samples", [0, 79, 80, 320, 400, 401, 16000, 16079])
def test_frames_are_those_of_the_model(num_samples: int) -> None:
    expected = 0
    if num_samples >= 80:
        windows = torch.zeros(1, num_samples // 80, 80)
        with torch.no_grad():
            encoder: Any = make_model().encoder
            expected = encoder.embedder(windows).shape[1]
    assert num_frames(num_samples) == expected


def test_size_survives_its_config() -> None:
    assert StreamingSize.from_json(SIZE.to_json(), "config.json") == SIZE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 1}, "num_key_value_heads 1 beside num_attention_heads 2"),
        ({"attention_bias": True}, "attention_bias differs from the published"),
        (
            {"rope_parameters": {"partial_rotary_factor": 1.0}},
            "24 rotary dimensions of head_dim 24",
        ),
    ],
)
def test_sizes_that_cannot_run_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StreamingSize.from_json({**SIZE.to_json(), **change}, "config.json")


def test_windows_are_one_for_each_layer() -> None:
    with pytest.raises(ConfigError, match="3 sliding_windows for 4 encoder layers"):
        replace(SIZE, encoder_layers=4).check("config.json")


def test_flags_choose_a_size() -> None:
    config = MoonshineConfig(model_size="streaming-small", model_dim=64, model_encoder_layers=5)
    size = chosen_streaming_size(config, 300)
    assert size.encoder == size.decoder == Block(64, 256, 8, 8)
    assert (size.encoder_layers, size.decoder_layers) == (5, 10)
    assert size.windows == default_windows(5)
    plain = chosen_streaming_size(MoonshineConfig(model_size="streaming-small"), 300)
    assert plain == replace(STREAMING_PRESETS["streaming-small"], vocab_size=300)
