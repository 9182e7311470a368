"""What all exports of Moonshine share: files of the text side, and the sound they are proven on."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.atomic import write_whole
from csm_ft.families.exporter import Exportable
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.size import (
    DEFAULT_TOKENS_PER_SEC,
    END,
    SAMPLE_RATE_HZ,
    START,
    TRAINED_SEC,
)

PROBED_SEC = (1.0, 10.0, 35.0)
GREEDY_TOKENS = 20  # compared per recording
# The library's own default normalises each clip, which these models have never heard.
_PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": SAMPLE_RATE_HZ,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "do_normalize": False,
    "return_attention_mask": True,
}
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "</s>",
}
_PROCESSORS = {False: "Wav2Vec2Processor", True: "MoonshineStreamingProcessor"}


def write_configs(
    folder: Path, source: Exportable, config: dict[str, Any], *, streams: bool = False
) -> None:
    """Write config.json, those of generation and preprocessor, and the tokenizer if known."""
    processor = {"processor_class": _PROCESSORS[streams]}
    write_json(folder / "config.json", config)
    max_length = math.ceil(TRAINED_SEC * max_tokens_per_sec(source))
    generation = {"bos_token_id": START, "decoder_start_token_id": START}
    generation |= {"eos_token_id": END, "pad_token_id": END, "max_length": max_length}
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "preprocessor_config.json", {**_PREPROCESSOR, **processor})
    blob = source.store.asset("tokenizer") if source.store is not None else None
    if blob is not None:
        write_whole(folder / "tokenizer.json", blob)
        write_json(folder / "tokenizer_config.json", {**_TOKENIZER, **processor})


def probe(source: Exportable, seconds: float) -> NDArray[np.int16]:
    """Return sound of that length: validation clips one after another, or noise."""
    wanted = round(seconds * SAMPLE_RATE_HZ)
    store = source.store
    if store is None or "val" not in store.splits:
        noise = np.random.default_rng(0).normal(scale=3000, size=wanted)
        return noise.clip(-32768, 32767).astype(np.int16)
    split = store.splits["val"]
    sound, row = split.array("samples", 0), 1
    while len(sound) < wanted:
        sound = np.concatenate([sound, split.array("samples", row % len(split))])
        row += 1
    return sound[:wanted]


def level_comment(source: Exportable) -> str:
    """Return a line of Python on the level that recordings must be brought to, or ""."""
    if source.store is None or source.store.info.facts.get("amplitude") != "peak":
        return ""
    return (
        "# Trained at full scale (--amplitude peak), and loading does not do that: divide the\n"
        "# samples of a recording by the largest, abs(sound).max(), first.\n"
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    write_whole(path, json.dumps(values, indent=2))


def max_tokens_per_sec(source: Exportable) -> float:
    """Return the cap on transcripts that the run had."""
    config = source.config
    return config.cap if isinstance(config, MoonshineConfig) else DEFAULT_TOKENS_PER_SEC
