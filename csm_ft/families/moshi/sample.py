"""Continuing dialogues: all prompts as one batch, with caches, seeded per prompt.

Every row of a prompt is known for some frames and generated from there on: Moshi's text and codes
behind the prompt, the user's codes never where they were recorded. What is known is fed as it is,
so a prompt of any length and a user's track of any length are one thing: tokens with holes. A
prompt with a text to speak has a script besides, which the text of its holes follows.

Shapes: B prompts, R rows, T frames, Q predicted codebooks, V ids.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.moshi.model import Memory, MoshiModel
from csm_ft.families.moshi.script import TAIL_SEC, Script
from csm_ft.families.moshi.size import HOLE, ZERO

if TYPE_CHECKING:
    from csm_ft.families.moshi.encoder import MoshiEncoder


@dataclass(frozen=True)
class MoshiSamplingOptions(SamplingOptions):
    """Text is drawn otherwise than codes."""

    text_temperature: float = 0.0
    text_topk: int = 0


@torch.no_grad()
def sample(
    model: MoshiModel,
    prompts: Sequence[Prompt],
    encoder: "MoshiEncoder",
    options: SamplingOptions,
) -> list[Sample]:
    """Fill the holes of each prompt's `tokens` [R, T]: text, Moshi's codes, the user's.

    The sample has the codes of all frames, the user's among them, and the text from the first hole
    on; that of a script ends behind it, and has no text. The model's mode is restored.
    """
    if not prompts:
        return []
    tokens = [prompt.arrays["tokens"].astype(np.int64) for prompt in prompts]
    scripts = [Script.of_prompt(prompt.arrays, encoder.silent_ids) for prompt in prompts]
    draws = Draws(model, prompts, options, scripts)
    draws.num_tail_frames = round(TAIL_SEC / encoder.frame_sec)
    was_training = model.training
    model.eval()
    try:
        done = generate(model, tokens, draws)
    finally:
        model.train(was_training)
    samples = []
    for place, (prompt, after) in enumerate(zip(prompts, done, strict=True)):
        script = scripts[place]
        codes = after[1:].T.clip(0, model.size.card - 1).astype(np.uint16)
        if script is None:
            text = encoder.text_of(after[0, tokens[place][0] == HOLE])
            samples.append(Sample(prompt, {"codes": codes, "text": after[0]}, text=text))
        else:
            num_frames = draws.num_frames(script) if script.is_spoken else len(codes)
            spoken = {"codes": codes[:num_frames], "text": after[0]}
            samples.append(Sample(prompt, spoken, is_complete=script.is_spoken))
    return samples


def generate(model: MoshiModel, tokens: Sequence[np.ndarray], choose: "Draws") -> list[np.ndarray]:
    """Fill the holes of tokens [R, T_i]."""
    delays = model.size.delays
    longest = max(rows.shape[1] for rows in tokens)
    known = torch.full((len(tokens), model.size.num_rows, longest), ZERO)
    for place, rows in enumerate(tokens):
        known[place, :, : rows.shape[1]] = torch.from_numpy(rows)
    # Empty columns behind the last frame, for the rows that are late.
    padding = torch.full((*known.shape[:2], max(delays)), ZERO)
    columns = model.delayed(torch.cat([known, padding], dim=2).to(model.device))  # [B, R, C + 1]
    num_columns = columns.shape[2]
    memories = [Memory(num_columns) for _ in model.layers]
    has_hole = (columns == HOLE).any(dim=1).any(dim=0).tolist()
    first = next((column for column, holes in enumerate(has_hole) if holes), num_columns)
    # What is known at the beginning goes through the model at once.
    hidden = model.hidden(columns[:, :, :first], memories)[:, -1]
    for column in range(first, num_columns):
        if has_hole[column]:
            columns[:, :, column] = _fill(model, hidden, columns[:, :, column], choose)
        if choose.is_over(column - max(delays)):
            break
        if column + 1 < num_columns:
            hidden = model.hidden(columns[:, :, column : column + 1], memories)[:, -1]
    frames = [columns[:, row, 1 + d : 1 + d + longest] for row, d in enumerate(delays)]
    filled = torch.stack(frames, dim=1).cpu().numpy()
    return [rows[:, : own.shape[1]] for rows, own in zip(filled, tokens, strict=True)]


def _fill(model: MoshiModel, hidden: Tensor, column: Tensor, choose: "Draws") -> Tensor:
    """Return a column [B, R] with its holes filled, after the state `hidden` [B, D]."""
    column = column.clone()
    text = choose(model.text_linear(hidden), None)
    column[:, 0] = torch.where(column[:, 0] == HOLE, text, column[:, 0])
    memories = [Memory(model.size.num_predicted) for _ in model.depth_layers]
    for codebook, head in enumerate(model.linears):
        x = model.depth_input(hidden, column[:, codebook], codebook)[:, None]
        for layer, memory in zip(model.depth_layers, memories, strict=True):
            x = layer(x, memory)
        codes, row = choose(head(x[:, 0]), codebook), 1 + codebook
        column[:, row] = torch.where(column[:, row] == HOLE, codes, column[:, row])
    # Rows that this model does not predict, and nobody recorded.
    return column.masked_fill(column == HOLE, ZERO)


class Draws:
    """Draws tokens with one generator per prompt, so that the batch does not affect a sample."""

    def __init__(
        self,
        model: MoshiModel,
        prompts: Sequence[Prompt],
        options: SamplingOptions,
        scripts: Sequence[Script | None] = (),
    ) -> None:
        self.options, self._scripts = options, scripts
        self.num_tail_frames = 0  # behind a script
        self._generators = [
            torch.Generator().manual_seed(_seed(options.seed, prompt.id)) for prompt in prompts
        ]
        self._shape = model.size.num_predicted, model.size.card
        self._noise = torch.empty(0)

    def __call__(self, logits: Tensor, codebook: int | None) -> Tensor:
        """Return one id per row, [B], from logits [B, V] of a codebook, or of the text (None).

        The text comes first in every frame.
        """
        logits, options = logits.float(), self.options
        temperature, topk = options.temperature, options.topk
        if codebook is None and isinstance(options, MoshiSamplingOptions):
            temperature, topk = options.text_temperature, options.text_topk
        if codebook == 0 and temperature:
            self._noise = self._exponential(self._shape).to(logits.device)
        if codebook is None and any(self._scripts):
            ids = self._draw(self._follow(logits), None, temperature, topk)
            for script, id_ in zip(self._scripts, ids.tolist(), strict=True):
                if script is not None:
                    script.advance(id_)
            return ids
        return self._draw(logits, codebook, temperature, topk)

    def num_frames(self, script: Script) -> int:
        """Return the frames of a sample whose script is spoken."""
        return script.num_spoken_frames + self.num_tail_frames

    def is_over(self, num_frames: int) -> bool:
        """Tell whether every sample has a script, and all end within so many frames."""
        return bool(self._scripts) and all(
            script is not None and script.is_spoken and self.num_frames(script) <= num_frames
            for script in self._scripts
        )

    def _follow(self, logits: Tensor) -> Tensor:
        """Return logits [B, V] of the text without what the scripts do not allow."""
        followed = logits.clone()
        for place, script in enumerate(self._scripts):
            if script is not None:
                allowed = script.allowed()
                followed[place] = float("-inf")
                followed[place, allowed] = logits[place, allowed]
        return followed

    def _draw(self, logits: Tensor, codebook: int | None, temperature: float, topk: int) -> Tensor:
        if temperature == 0:
            return logits.argmax(dim=-1)
        if codebook is None:
            noise = self._exponential((logits.shape[-1],)).to(logits.device)
        else:
            noise = self._noise[:, codebook]
        logits = logits / temperature
        if 0 < topk < logits.shape[-1]:
            floor = logits.topk(topk, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < floor, float("-inf"))
        # argmax(p / Exp(1)), the exponential race, is a draw from p.
        return (logits.softmax(dim=-1) / noise).argmax(dim=-1)

    def _exponential(self, shape: tuple[int, ...]) -> Tensor:
        """Return noise [B, *shape], drawn on the CPU: the same on every device."""
        return torch.stack([torch.empty(shape).exponential_(generator=g) for g in self._generators])


def _seed(seed: int, prompt_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{prompt_id}".encode(), digest_size=7).digest())
