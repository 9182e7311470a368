"""Random clips of two kinds: sentences as in LJSpeech, and turns of conversations.

LJSpeech's clips last 1.1 to 10.1 s, 6.6 s on average, most of them long. Turns last 3.9 s in the
middle, and up to a minute.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import ArrayKind, Clip, Split, clip_columns
from csm_ft.families.csm.size import CsmSize, TransformerSize

Kind = Literal["lj", "conversation"]
FRAMES_PER_SEC = 12.5
TEXT_TOKENS_PER_SEC = 4.47
SIZES = {
    "small": CsmSize(
        TransformerSize(layers=8, heads=8, kv_heads=2, dim=512, ffn_dim=2048),
        TransformerSize(layers=4, heads=4, kv_heads=1, dim=256, ffn_dim=2048),
        text_vocab_size=4096,
        audio_vocab_size=2051,
        num_codebooks=32,
    ),
    "tiny": CsmSize(
        TransformerSize(layers=2, heads=4, kv_heads=2, dim=32, ffn_dim=48),
        TransformerSize(layers=1, heads=2, kv_heads=1, dim=16, ffn_dim=24),
        text_vocab_size=40,
        audio_vocab_size=19,
        num_codebooks=4,
    ),
}


def durations_sec(kind: Kind, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw how long clips last."""
    random = np.random.default_rng(seed)
    if kind == "lj":
        return 1.1 + 9.0 * random.beta(1.84, 1.18, count)
    return np.clip(random.lognormal(np.log(3.9), 1.0, count), 0.5, 60.0)


def lengths(kind: Kind, count: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the frames and text tokens of random clips, [count] each."""
    seconds = durations_sec(kind, count, seed)
    frames = np.ceil(seconds * FRAMES_PER_SEC).astype(np.int64)
    return frames, np.ceil(seconds * TEXT_TOKENS_PER_SEC).astype(np.int64)


def split_of(kind: Kind, count: int, size: CsmSize, seed: int = 0) -> Split:
    """Make clips with random codes and text."""
    frames, text = lengths(kind, count, seed)
    random = np.random.default_rng(seed)
    # Code 0 is left out, as a frame of zeros would mean the end of speech.
    highest = size.audio_vocab_size - 3
    codes = random.integers(1, highest, (frames.sum(), size.num_codebooks)).astype(np.uint16)
    clips = [
        Clip(f"clip-{i}", "", "", "", 0.0, seconds, seconds)
        for i, seconds in enumerate((frames / FRAMES_PER_SEC).tolist())
    ]
    columns = {
        **clip_columns(clips),
        "codes": codes,
        "codes_offsets": np.concatenate([[0], np.cumsum(frames)]),
        "text_tokens": random.integers(0, size.text_vocab_size, text.sum()).astype(np.uint32),
        "text_tokens_offsets": np.concatenate([[0], np.cumsum(text)]),
    }
    kinds = {"codes": ArrayKind("<u2", size.num_codebooks), "text_tokens": ArrayKind("<u4")}
    return Split("train", columns, kinds)
