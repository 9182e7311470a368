"""The moshi package as the reader of an export: its logits and its greedy dialogue against ours.

The package is not a dependency, as its pins exclude the current torch. Installed without these
(requirements-moshi.txt) it runs.
"""

import importlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from csm_ft.errors import CheckError, first_line
from csm_ft.families.base import Prompt
from csm_ft.families.exporter import Proof
from csm_ft.families.moshi.model import MoshiModel
from csm_ft.families.moshi.sample import Draws, MoshiSamplingOptions, generate
from csm_ft.families.moshi.size import HOLE

TOLERANCE = 2e-4  # on logits in fp32; other orders of operations
_FRAMES, _GREEDY_FRAMES = 20, 8
PACKAGE = "the moshi package"
NOT_CHECKED = (
    "the moshi package did not check this export, only this program's loader: install it with `pip"
    " install --no-deps moshi==0.2.13 einops sphn`, and export again"
)


class Difference(NamedTuple):
    """What two models that should be one say of the same dialogue."""

    logits: float  # the largest difference
    frames: int  # of greedy dialogue that are the same


def is_installed() -> bool:
    """Tell whether the package can be imported."""
    return all(find_spec(name) is not None for name in ("moshi", "einops", "sphn"))


def compare(
    model: MoshiModel, weights: Path, config: Mapping[str, Any], adapters: Path | None = None
) -> Difference:
    """Let the package read weights (and adapters), and compare; CheckError if it cannot."""
    loaders: Any = importlib.import_module("moshi.models.loaders")
    models: Any = importlib.import_module("moshi.models")
    popped = ("moshi_name", "mimi_name", "tokenizer_name", "model_type", "lora_name")
    kwargs = {name: value for name, value in config.items() if name not in popped}
    more: dict[str, Any] = {"lora_weights": str(adapters)} if adapters else {}
    try:
        with eager():
            theirs = loaders.get_moshi_lm(
                str(weights), lm_kwargs=kwargs, device="cpu", dtype=torch.float32, **more
            )
            return _compare(model.eval(), theirs, models.LMGen)
    except (RuntimeError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
        raise CheckError(
            f"the export cannot be read by {PACKAGE} ({first_line(error)}); nothing was kept"
        ) from error


def proof(difference: Difference) -> Proof:
    """Return what was compared; CheckError if the package reads another model."""
    if difference.logits > TOLERANCE or difference.frames < _GREEDY_FRAMES:
        raise CheckError(
            f"{PACKAGE} reads other weights: logits differ by {difference.logits:.2g} (allowed are"
            f" {TOLERANCE:g}), {difference.frames} of {_GREEDY_FRAMES} greedy frames are the same;"
            " nothing was kept"
        )
    line = (
        f"read back by {PACKAGE}: logits of {_FRAMES} frames differ by at most"
        f" {difference.logits:.2g}, {difference.frames} greedy frames are the same"
    )
    return Proof(PACKAGE, [line])


@torch.no_grad()
def _compare(model: MoshiModel, theirs: Any, lm_gen: Any) -> Difference:
    size = model.size
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(size.card, (1, size.num_rows, _FRAMES), generator=generator)
    codes[:, 0] = torch.randint(size.text_card, (1, _FRAMES), generator=generator)
    text, audio = model.logits(codes)
    output = theirs(codes)
    differences = [
        _largest(text, output.text_logits[:, 0], output.text_mask[:, 0]),
        _largest(audio, output.logits, output.mask),
    ]
    return Difference(max(differences), _same_frames(model, theirs, lm_gen, codes))


def _largest(ours: Tensor, theirs: Tensor, mask: Tensor) -> float:
    return float((ours - theirs)[mask].abs().max())


def _same_frames(model: MoshiModel, theirs: Any, lm_gen: Any, codes: Tensor) -> int:
    """Return how many of the first frames are the same when both answer a user greedily."""
    size = model.size
    user, delay = codes[0, 1 + size.num_own :], size.max_delay
    rows = np.full((size.num_rows, _FRAMES), HOLE, dtype=np.int64)
    rows[1 + size.num_own :] = user.numpy()
    draws = Draws(model, [Prompt("", "")], MoshiSamplingOptions())
    ours = generate(model, [rows], draws)[0][: 1 + size.num_own]
    generator = lm_gen(theirs, use_sampling=False)
    answered = []
    with generator.streaming(1):
        # The model begins with an initial column whatever it is fed, so user frame i comes at i+1.
        for step in range(_FRAMES + 1):
            heard = user[:, max(0, step - 1)][None, :, None]
            answer = generator.step(heard)
            if answer is not None:
                answered.append(answer[0, :, 0].numpy())
    pairs = zip(answered[: _FRAMES - delay], ours.T, strict=False)
    same = [bool((their == our).all()) for their, our in pairs]
    return min(_GREEDY_FRAMES, [*same, False].index(False))


def eager() -> AbstractContextManager[None]:
    """Let the package run without compiling."""
    compile_: Any = importlib.import_module("moshi.utils.compile")
    return compile_.no_compile()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of an export."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
