"""The model: generation equals training, whatever the batch; adapters, depth draws, context."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from csm_ft.errors import ConfigError
from csm_ft.families.base import Prompt
from csm_ft.families.moshi.config import MoshiConfig, lora_modules
from csm_ft.families.moshi.data import PARTS, Layout, MoshiBatch, draw_depth, make_batch
from csm_ft.families.moshi.model import MoshiModel, empty_model, init_weights
from csm_ft.families.moshi.sample import Draws, MoshiSamplingOptions, generate
from csm_ft.families.moshi.size import HOLE, MoshiSize, with_user
from csm_ft.families.moshi.weights import grown, linear_names, to_hub, to_modules, without_user

SIZE = MoshiSize(
    dim=32,
    layers=2,
    heads=2,
    context=64,
    num_streams=6,
    num_predicted=3,
    card=20,
    text_card=30,
    depth_dim=16,
    depth_ffn_dim=40,
    depth_heads=2,
    depth_layers=2,
    delays=(0, 0, 1, 2, 0, 1, 1),
)


def model_of(size: MoshiSize = SIZE) -> MoshiModel:
    model = empty_model(size)
    init_weights(model, 0)
    return model.eval()


def tokens(num_frames: int, seed: int = 0, size: MoshiSize = SIZE) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.integers(0, size.card, (size.num_rows, num_frames))
    rows[0] = random.integers(0, size.text_card, num_frames)
    return rows


def with_holes(rows: np.ndarray, known: int) -> np.ndarray:
    rows = rows.copy()
    rows[: 1 + SIZE.num_own, known:] = HOLE
    return rows


def batch_of(windows: list[np.ndarray], longest: int = 40) -> MoshiBatch:
    layout = Layout(SIZE.delays, SIZE.num_own, SIZE.text_padding_id, SIZE.text_end_id)
    return make_batch(windows, layout, longest)


def greedy(model: MoshiModel, rows: list[np.ndarray]) -> list[np.ndarray]:
    prompts = [Prompt(str(number), "") for number in range(len(rows))]
    return generate(model, rows, Draws(model, prompts, MoshiSamplingOptions()))


@torch.no_grad()
@pytest.mark.parametrize("known", [0, 1, 7])
def test_greedy_dialogue_is_the_argmax_of_training(known: int) -> None:
    model = model_of()
    (filled,) = greedy(model, [with_holes(tokens(15), known)])
    text, audio = model.logits(torch.from_numpy(filled)[None])
    for frame in range(known, 15 - SIZE.max_delay):
        assert filled[0, frame] == int(text[0, frame].argmax())
        assert filled[1:4, frame].tolist() == audio[0, :, frame].argmax(-1).tolist()
    assert (filled[4:] == tokens(15)[4:]).all()  # the user's are as recorded


@torch.no_grad()
def test_batch_of_prompts_equals_each_alone() -> None:
    model = model_of()
    rows = [with_holes(tokens(n, seed=n), known) for n, known in ((15, 0), (9, 4), (12, 12))]
    together = greedy(model, rows)
    for own, one in zip(rows, together, strict=True):
        (alone,) = greedy(model, [own])
        assert (alone == one).all()


@torch.no_grad()
def test_seed_decides_a_sample() -> None:
    model, rows = model_of(), [with_holes(tokens(15), 2)]
    options = MoshiSamplingOptions(temperature=1.0, text_temperature=1.0, topk=5, text_topk=9)

    def draw(seed: int) -> np.ndarray:
        draws = Draws(model, [Prompt("x", "")], replace(options, seed=seed))
        return generate(model, rows, draws)[0]

    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).any()


@torch.no_grad()
def test_generation_beyond_the_context_equals_training() -> None:
    model = model_of(replace(SIZE, context=5))
    (filled,) = greedy(model, [with_holes(tokens(20), 0)])
    text, _ = model.logits(torch.from_numpy(filled)[None])
    assert filled[0].tolist() == text[0].argmax(-1).tolist()
    far = tokens(20)
    far[:, 0] = 1  # out of reach of the last frames through two layers
    last = model.logits(torch.from_numpy(tokens(20))[None])[0][0, -1]
    torch.testing.assert_close(model.logits(torch.from_numpy(far)[None])[0][0, -1], last)


@torch.no_grad()
def test_loss_of_a_window_does_not_depend_on_its_batch() -> None:
    model = model_of()
    windows = [tokens(n, seed=n) for n in (15, 40, 23)]
    together = model(batch_of(windows))
    for number, window in enumerate(windows):
        alone = model(batch_of([window]))
        for part, nats in alone.items():
            torch.testing.assert_close(nats[0], together[part][number], rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_counts_are_the_targets_of_the_loss() -> None:
    model = model_of()
    for parameter in model.parameters():
        parameter.zero_()  # all ids are equally likely: nats = count * log(vocabulary)
    batch = batch_of([tokens(15), tokens(40), tokens(39)])
    for part, nats in model(batch).items():
        ids = SIZE.text_card if part.startswith("text") else SIZE.card
        expected = batch.counts[part].double() * np.log(ids)
        torch.testing.assert_close(nats.double(), expected, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_drawn_columns_estimate_the_loss_without_bias() -> None:
    model, windows = model_of(), [tokens(40), tokens(21, seed=1)]
    whole = model(batch_of(windows))
    sums = {part: torch.zeros(2) for part in whole}
    for draw in range(400):
        batch = batch_of(windows)
        draw_depth(batch, 0.25, [f"{draw}/a", f"{draw}/b"])
        for part, nats in model(batch).items():
            sums[part] += nats / 400
    for part, nats in whole.items():
        torch.testing.assert_close(sums[part], nats, rtol=0.03, atol=0)


@torch.no_grad()
def test_estimated_variances_are_those_of_the_estimates() -> None:
    model, windows, found = model_of(), [tokens(60)], []
    for draw in range(300):
        batch = batch_of(windows)
        draw_depth(batch, 0.25, [str(draw)])
        batch.is_estimate = True
        found.append({part: nats.item() for part, nats in model(batch).items()})
    for part in ("c0", "acoustic"):
        variance = np.var([one[part] for one in found])
        assert np.mean([one[f"{part}_variance"] for one in found]) == pytest.approx(
            variance, rel=0.3
        )


def test_hub_names_and_back() -> None:
    own = model_of(replace(SIZE, schedule=(0, 1, 1))).state_dict()
    size = replace(SIZE, schedule=(0, 1, 1))
    hub = to_hub(own)
    assert hub["depformer.layers.0.self_attn.in_proj_weight"].shape == (2 * 48, 16)
    assert hub["transformer.layers.1.self_attn.out_proj.weight"].shape == (32, 32)
    back = to_modules(hub, size)
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_config_is_read_as_it_is_written() -> None:
    size = replace(SIZE, schedule=(0, 1, 1))
    assert MoshiSize.from_json(size.to_json(), "config.json") == size


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"conditioners": {"description": {}}}, "conditioners"),
        ({"quantize": True}, "quantize"),
        ({"model_type": "hibiki"}, "model_type 'hibiki'"),
        ({"tts_config": {"audio_delay": 1}}, "tts_config"),
        ({"delays": [0, 0]}, "delays"),
        ({"dep_q": 9}, "dep_q 9 is above n_q 6"),
        ({"existing_text_padding_id": 30}, "padding ids"),
        ({"new_thing": 1}, "new_thing"),
    ],
)
def test_other_models_are_refused_by_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MoshiSize.from_json({**SIZE.to_json(), **change}, "config.json")


@torch.no_grad()
def test_grown_model_says_the_same() -> None:
    base = model_of()
    grown_model = empty_model(with_user(SIZE))
    grown_model.load_state_dict(grown(base.state_dict(), 3), assign=True)
    codes = torch.from_numpy(tokens(15))[None]
    text, audio = base.logits(codes)
    their_text, their_audio = grown_model.logits(codes)
    assert torch.equal(text, their_text)
    # Attention over six steps sums in another order than over three.
    torch.testing.assert_close(audio, their_audio[:, :3], rtol=0, atol=1e-5, equal_nan=True)
    assert not torch.equal(audio.nan_to_num(), their_audio[:, 3:].nan_to_num())  # other inputs
    cut = without_user(grown_model.state_dict(), 3)
    assert cut.keys() == base.state_dict().keys()
    assert all(torch.equal(cut[name], value) for name, value in base.state_dict().items())


@torch.no_grad()
def test_user_is_a_part_of_the_loss_and_of_the_dialogue() -> None:
    model = model_of(with_user(SIZE))
    loss = model(batch_of([tokens(15)]))
    assert loss.keys() == set(PARTS)
    assert loss["user_c0"] > 0
    rows = tokens(15)
    rows[:, 5:] = HOLE
    (filled,) = greedy(model, [rows])
    _, audio = model.logits(torch.from_numpy(filled)[None])
    frame = 15 - SIZE.max_delay - 1
    assert filled[1:, frame].tolist() == audio[0, :, frame].argmax(-1).tolist()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 2 * 4 + 2 * 4 * 3 + 3 + 3 + 1),  # every linear module
        ({"lora_targets": "attention"}, 2 * 2 + 2 * 2 * 3),
        ({"lora_targets": "heads"}, 3 + 3 + 1),
        ({"depth_lr_factor": 0.0}, 2 * 4 + 1),
        ({"temporal_lr_factor": 0.0}, 2 * 4 * 3 + 3 + 3),
    ],
)
def test_adapters_are_on_the_chosen_modules(options: dict[str, object], count: int) -> None:
    pattern = lora_modules(MoshiConfig(method="lora", **options))
    chosen = [name for name in linear_names(model_of()) if re.fullmatch(pattern, name)]
    assert len(chosen) == count
