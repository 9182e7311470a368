"""A small in-memory split and model, for tests that need no token file."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.examples import Examples, join_turns
from csm_ft.data.split import ArrayKind, Clip, Split, StoreInfo, clip_columns
from csm_ft.families.csm.arrange import costs
from csm_ft.families.csm.model import CsmModel, random_model
from csm_ft.families.csm.size import CsmSize, TransformerSize

SIZE = CsmSize(
    TransformerSize(layers=2, heads=4, kv_heads=2, dim=32, ffn_dim=48),
    TransformerSize(layers=1, heads=2, kv_heads=1, dim=16, ffn_dim=24),
    40,
    19,
    4,
)
FACTS = {  # of an encoder that fits SIZE; there is none
    "codec": "melrvq",
    "codec_source": "none",
    "codec_fingerprint": "",
    "num_codebooks": SIZE.num_codebooks,
    "codec_vocab_size": SIZE.audio_vocab_size,
    "sample_rate_hz": 16000,
    "frame_samples": 1280,
    "tokenizer": "none",
    "tokenizer_fingerprint": "",
    "text_vocab_size": SIZE.text_vocab_size,
    "template": "{text}",
}
ARRAYS = {"codes": ArrayKind("<u2", SIZE.num_codebooks), "text_tokens": ArrayKind("<u4")}
INFO = StoreInfo("csm", ARRAYS, 16000, 0.08, "", "", FACTS)


class FakeSplit(Split):
    """Clips of given codes and text, or random ones; by default each by itself."""

    def __init__(
        self,
        num_frames: Sequence[int] | NDArray[np.int64],
        num_text_tokens: Sequence[int] | NDArray[np.int64],
        seed: int = 0,
        *,
        conversations: Sequence[str] = (),
        turns: Sequence[int] = (),
        speakers: Sequence[str] = (),
        weights: Sequence[float] = (),
        codes: Sequence[NDArray[np.uint16]] = (),
        text: Sequence[NDArray[np.uint32]] = (),
        ids: Sequence[str] = (),
    ) -> None:
        random = np.random.default_rng(seed)
        num_clips = len(num_frames)
        codes = codes or [random.integers(1, 19, (n, 4)).astype(np.uint16) for n in num_frames]
        text = text or [random.integers(0, 40, n).astype(np.uint32) for n in num_text_tokens]
        width = codes[0].shape[1] if codes else SIZE.num_codebooks
        none = [""] * num_clips
        clips = [
            Clip(
                ids[i] if ids else f"clip-{i}",
                "",
                who,
                "",
                0.0,
                1.0,
                1.0,
                conversation=name,
                turn=turn,
            )
            for i, (who, name, turn) in enumerate(
                zip(speakers or none, conversations or none, turns or [0] * num_clips, strict=True)
            )
        ]
        if weights:
            clips = [
                replace(clip, weight=weight) for clip, weight in zip(clips, weights, strict=True)
            ]
        columns = {
            **clip_columns(clips),
            "codes": np.concatenate([np.zeros((0, width), np.uint16), *codes]),
            "codes_offsets": np.cumsum([0, *map(len, codes)], dtype=np.int64),
            "text_tokens": np.concatenate([np.zeros(0, np.uint32), *text]),
            "text_tokens_offsets": np.cumsum([0, *map(len, text)], dtype=np.int64),
        }
        super().__init__("train", columns, {**ARRAYS, "codes": ArrayKind("<u2", width)})


def make_split(
    frames: Sequence[int],
    seed: int = 0,
    *,
    conversations: Sequence[str] = (),
    turns: Sequence[int] = (),
    speakers: Sequence[str] = (),
    ids: Sequence[str] = (),
) -> FakeSplit:
    """Random clips, with three to eight text tokens each."""
    num_text_tokens = np.random.default_rng(seed).integers(3, 9, len(frames))
    places = {"conversations": conversations, "turns": turns, "speakers": speakers, "ids": ids}
    return FakeSplit(frames, num_text_tokens, seed, **places)


def examples_of(split: Split, *, max_positions: int = 2048, loss_turns: str = "all") -> Examples:
    """Arrange a split as a run does."""
    return join_turns(split, costs(split), max_positions=max_positions, loss_turns=loss_turns)


def make_model(seed: int = 0) -> CsmModel:
    return random_model(SIZE, seed)
