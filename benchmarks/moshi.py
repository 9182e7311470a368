"""Moshi beside the moshi package: the training step of kyutai's trainer, and dialogues by LMGen.

The peer's step is LMModel.forward on windows padded to one length, kyutai's loss, backward,
clipping and AdamW, with the same weights and windows. Left out in both is the codec.

Shapes: B windows, R rows (text and codebooks), T frames of a full window.
"""

import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, ratio
from benchmarks.timing import Times, interleave
from csm_ft.data.batches import Step
from csm_ft.device import reproducible
from csm_ft.errors import CheckError
from csm_ft.families.base import Prompt, parts_of, weighted_loss
from csm_ft.families.model import save_tensors
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.data import Layout, MoshiBatch, draw_depth, make_batch
from csm_ft.families.moshi.export import package
from csm_ft.families.moshi.family import MoshiFamily
from csm_ft.families.moshi.model import MoshiModel, empty_model, init_weights
from csm_ft.families.moshi.sample import Draws, MoshiSamplingOptions, generate
from csm_ft.families.moshi.size import HOLE, ZERO, MoshiSize, published_delays
from csm_ft.families.moshi.weights import to_hub
from csm_ft.training.optim import build_optimizer
from csm_ft.training.step import optimizer_step

MAX_DIFFERENCE = 1e-5  # of losses, beyond which nothing is timed
FAMILY = MoshiFamily()
OPTIONS = MoshiConfig(method="full", device="cpu", dtype="fp32", threads=1, learning_rate=1e-12)
SMALL = MoshiSize(
    dim=256,
    layers=6,
    heads=4,
    context=1500,
    card=256,
    text_card=4000,
    depth_dim=128,
    depth_ffn_dim=344,
    depth_heads=4,
    depth_layers=3,
    delays=published_delays(8),
)
TINY = replace(SMALL, dim=32, layers=1, heads=2, text_card=60, depth_dim=16, depth_ffn_dim=40)
SIZES = {"small": (SMALL, 1250), "tiny": (TINY, 40)}  # and frames of a full window: 100 s
# Dialogues of 5 to 100 s, 28 s in the mean, as shares of a full window.
SHARES = (0.05, 0.1, 0.14, 0.2, 0.25, 0.35, 0.15, 1.0)
ONE_OF = 4  # dialogues that the package trains on: it pads all to full windows, which take the same
CHECKED_FRAMES = 100  # of a full window on which losses are compared
NUM_DIALOGUES, NUM_GENERATED = 16, {"small": 25, "tiny": 5}


def measure(config: BenchmarkConfig) -> Found:
    """Measure steps and generation on one model."""
    names = (
        *("step.full_ratio", "step.dialogues_ratio", "step.depth_quarter_ratio"),
        *("generate.batch1_ratio", "generate.batch16_ratio"),
    )
    if not package.is_installed():
        return {f"moshi.{name}": f"{package.PACKAGE} is not installed" for name in names}
    size, full = SIZES[config.size]
    model = empty_model(size)
    init_weights(model, 0)
    theirs = _package_model(model)
    rounds = min(config.rounds, 2)
    steps = _Steps(model, theirs)
    steps.check(_windows(size, CHECKED_FRAMES), CHECKED_FRAMES)
    equal = steps.compare([_window(size, full, 0)], full, config.rounds, depth_quarter=True)
    mixed = steps.compare(_windows(size, full), full, rounds, one_of=ONE_OF)
    alone, together = _dialogues(model, theirs, NUM_GENERATED[config.size], rounds)
    return {
        "moshi.step.full_ratio": ratio(equal["theirs"], equal["ours"]),
        "moshi.step.dialogues_ratio": ratio(
            [ONE_OF * sec for sec in mixed["theirs"]], mixed["ours"]
        ),
        "moshi.step.depth_quarter_ratio": ratio(equal["ours"], equal["quarter"]),
        "moshi.generate.batch1_ratio": ratio(alone["theirs"], alone["ours"]),
        "moshi.generate.batch16_ratio": ratio(
            alone["theirs"], [sec / NUM_DIALOGUES for sec in together["ours"]]
        ),
    }


def _package_model(model: MoshiModel) -> Any:
    """Return the package's model with the same weights."""
    loaders: Any = importlib.import_module("moshi.models.loaders")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_tensors(to_hub(model.state_dict()), path)
        kwargs = json.loads(json.dumps(dict(model.size.to_json())))
        for name in ("moshi_name", "mimi_name", "tokenizer_name", "model_type", "lora_name"):
            kwargs.pop(name, None)
        theirs = loaders.get_moshi_lm(
            str(path), lm_kwargs=kwargs, device="cpu", dtype=torch.float32
        )
    return theirs.requires_grad_(True)


def _window(size: MoshiSize, num_frames: int, seed: int) -> NDArray[np.int64]:
    """Return a window [R, n] whose text is padding for two thirds of the time."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, size.card, (size.num_rows, num_frames))
    text = random.integers(4, size.text_card, num_frames)
    rows[0] = np.where(random.random(num_frames) < 2 / 3, size.text_padding_id, text)
    return rows


def _windows(size: MoshiSize, full: int) -> list[NDArray[np.int64]]:
    """Return the windows of all dialogues."""
    return [_window(size, max(1, round(full * s)), i) for i, s in enumerate(SHARES)]


def _padded(size: MoshiSize, windows: Sequence[NDArray[np.int64]], full: int) -> Tensor:
    """Return what the package takes, [B, R, T]."""
    codes = torch.full((len(windows), size.num_rows, full), ZERO)
    for place, rows in enumerate(windows):
        codes[place, :, : rows.shape[1]] = torch.from_numpy(rows)
    return codes


def _batch(size: MoshiSize, windows: Sequence[NDArray[np.int64]], full: int) -> MoshiBatch:
    layout = Layout(size.delays, size.num_own, size.text_padding_id, size.text_end_id)
    return make_batch(windows, layout, full)


class _Steps:
    """Steps of both programs, each with one optimiser: what has run is warm."""

    def __init__(self, model: MoshiModel, theirs: Any) -> None:
        self._model, self._theirs = model, theirs
        self._ours, self._package = _our_step(model), _their_step(theirs)

    @torch.no_grad()
    def check(self, windows: Sequence[NDArray[np.int64]], full: int) -> None:
        """Raise CheckError unless the losses are equal."""
        size = self._model.size
        ours = _our_loss(self._model, _batch(size, windows, full)).item()
        theirs = _their_loss(self._theirs, _padded(size, windows, full)).item()
        if abs(ours - theirs) > MAX_DIFFERENCE * theirs:
            raise CheckError(f"the losses differ, so that times do not compare: {ours}, {theirs}")

    def compare(
        self,
        windows: Sequence[NDArray[np.int64]],
        full: int,
        rounds: int,
        *,
        depth_quarter: bool = False,
        one_of: int = 1,
    ) -> Times:
        """Take steps on the same windows in turns; the package on one of so many.

        `depth_quarter` adds our steps whose depth transformer sees a quarter of the columns.
        """
        size = self._model.size
        batch, codes = _batch(size, windows, full), _padded(size, windows[::one_of], full)
        variants: dict[str, Callable[[int], object]] = {
            "ours": lambda _: self._ours(batch),
            "theirs": lambda _: self._package(codes),
        }
        if depth_quarter:
            quarter = _batch(size, windows, full)
            draw_depth(quarter, 0.25, [str(place) for place in range(len(windows))])
            variants["quarter"] = lambda _: self._ours(quarter)
        return interleave(variants, rounds=rounds, warm_up=False)


def _our_loss(model: MoshiModel, batch: MoshiBatch) -> Tensor:
    terms = FAMILY.loss_terms(OPTIONS)
    nats = model(batch)
    parts = parts_of(terms)
    sums = {part: nats[part].sum() for part in parts}
    counts = {part: int(batch.counts[part].sum()) for part in parts}
    return weighted_loss(terms, sums, counts)


def _our_step(model: MoshiModel) -> Callable[[MoshiBatch], None]:
    terms, optimizer = FAMILY.loss_terms(OPTIONS), build_optimizer(model, FAMILY, OPTIONS)

    def step(batch: MoshiBatch) -> None:
        whole = Step(1, 0, batch.num_sequences, [], [])
        with reproducible("cpu", threads=1, seed=0):
            optimizer_step(model, optimizer, whole, [batch], OPTIONS, terms)

    return step


def _their_loss(theirs: Any, codes: Tensor) -> Tensor:
    """Return kyutai's loss: weighted means of text and of Moshi's codebooks."""
    with package.eager():
        output = theirs(codes)
    own = codes[:, 1 : 1 + theirs.dep_q]
    text = _weighted_mean(
        output.text_logits,
        codes[:, :1],
        output.text_mask,
        {theirs.text_padding_token_id: 0.5, theirs.end_of_text_padding_id: 0.5},
    )
    return text + _weighted_mean(output.logits, own, output.mask, {}, first_weight=100.0)


def _weighted_mean(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights_of_ids: dict[int, float],
    first_weight: float = 1.0,
) -> Tensor:
    targets = torch.where(mask, targets, 0)
    weights = mask.float()
    weights[:, 0] *= first_weight
    for id_, weight in weights_of_ids.items():
        weights[targets == id_] *= weight
    flat = logits.reshape(-1, logits.shape[-1]).float()
    flat = torch.where(mask.reshape(-1, 1), flat, 0.0)
    nats = F.cross_entropy(flat, targets.reshape(-1), reduction="none")
    return (nats * weights.reshape(-1)).sum() / weights.sum()


def _their_step(theirs: Any) -> Callable[[Tensor], None]:
    weights = list(theirs.parameters())
    optimizer = torch.optim.AdamW(weights, lr=OPTIONS.learning_rate, fused=True)

    def step(codes: Tensor) -> None:
        _their_loss(theirs, codes).backward()
        clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _dialogues(model: MoshiModel, theirs: Any, num_frames: int, rounds: int) -> tuple[Times, Times]:
    """Answer users greedily: one by both programs, if the tokens are the same; many by ours."""
    size = model.size
    users = [_window(size, num_frames, seed)[1 + size.num_own :] for seed in range(NUM_DIALOGUES)]
    ours, same = _ours(model, users[:1]), _theirs(theirs, users[0], size)
    late = size.max_delay
    if not (ours[0][:, : num_frames - late] == same[:, : num_frames - late]).all():
        raise CheckError("the package generates other tokens, so that times do not compare")
    alone = interleave(
        {
            "ours": lambda _: _ours(model, users[:1]),
            "theirs": lambda _: _theirs(theirs, users[0], size),
        },
        rounds=rounds,
        warm_up=False,
    )
    return alone, interleave({"ours": lambda _: _ours(model, users)}, rounds=rounds)


@torch.no_grad()
def _ours(model: MoshiModel, users: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return text and codes of Moshi against each user [K, n]."""
    size = model.size
    windows = []
    for user in users:
        rows = np.full((size.num_rows, user.shape[1]), HOLE)
        rows[1 + size.num_own :] = user
        windows.append(rows)
    prompts = [Prompt(str(place), "") for place in range(len(users))]
    draws = Draws(model, prompts, MoshiSamplingOptions())
    return [rows[: 1 + size.num_own] for rows in generate(model.eval(), windows, draws)]


@torch.no_grad()
def _theirs(theirs: Any, user: NDArray[np.int64], size: MoshiSize) -> NDArray[np.int64]:
    """Return what LMGen answers; user frame i is fed at step i + 1, behind the initial column."""
    models: Any = importlib.import_module("moshi.models")
    generator = models.LMGen(theirs.eval(), use_sampling=False)
    heard = torch.from_numpy(user)
    answered: list[NDArray[np.int64]] = []
    with package.eager(), generator.streaming(1):
        for step in range(user.shape[1] + 1):
            answer = generator.step(heard[:, max(0, step - 1)][None, :, None])
            if answer is not None:
                answered.append(answer[0, :, 0].numpy())
    return np.stack(answered, axis=1)
