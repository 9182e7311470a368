"""What a token file of Moonshine holds: rows, words, tokens, lengths. Imports no torch."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.describe import histogram
from csm_ft.data.split import Split, Store
from csm_ft.data.text import in_capitals
from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.arrange import SEGMENTS, Part, arrange, parts_of
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.size import SAMPLE_RATE_HZ

# Of the paper, for the preview of what --instance_max_sec would make.
_SHORTEST_SEC, _LONGEST_SEC, _GAP_SEC = 4.0, 30.0, 2.0


def describe(store: Store) -> list[str]:
    """Return lines on rows, words, tokens and seconds, and the name of the tokenizer."""
    facts = store.info.facts
    lines: list[str] = []
    for split in store.splits.values():
        count = summarise(split)
        share = count["rows_under_1_sec"] / max(1, count["rows"])
        lines.append(
            f"{split.name:10} {count['words']} words, {count['text_tokens']} text tokens,"
            f" {count['tokens_per_sec']:.2f} tokens per second (99.9 % of clips below"
            f" {count['tokens_per_sec_p999']:.2f}), {count['words_per_sec']:.2f} words per second;"
            f" {share:.1%} of rows under 1 s"
        )
    if SEGMENTS in store.info.arrays:
        lines += _describe_stretches(store.splits["train"])
    lines.append(
        f"tokenizer  {facts.get('text_vocab_size')} ids ({facts.get('tokenizer')}), case"
        f" {facts.get('text_case')}; amplitude {facts.get('amplitude')}"
    )
    return lines + _describe_languages(store) + _describe_capitals(store)


def _describe_languages(store: Store) -> list[str]:
    """Return a warning for several languages: their error rates are counted by the rules of one."""
    found = Counter(
        language
        for split in store.splits.values()
        for language in (split.tags(row).get("language", "") for row in range(len(split)))
        if language
    )
    if len(found) < 2:
        return []
    counts = ", ".join(f"{language} ({count})" for language, count in found.most_common())
    return [
        f"languages  {counts}: val_wer compares all texts by the rules of the most frequent one of"
        " validation; choose others by train.py --language, or make a token file for each"
    ]


def _describe_capitals(store: Store) -> list[str]:
    """Return a warning for a corpus of capitals: error rates do not show what it teaches."""
    split = store.splits["train"]
    texts = [split.clip(row).text for row in range(len(split))]
    count = sum(map(in_capitals, texts))
    if 2 * count <= len(texts) or store.info.facts.get("text_case") != "keep":
        return []
    return [
        f"capitals   {count} of {len(texts)} training texts are in capitals alone, and a model"
        " writes as it was taught, which normalised error rates do not show; pretokenise again with"
        " --text_case sentence or lower (no sound is encoded again)"
    ]


def summarise(split: Split) -> dict[str, Any]:
    """Count words and tokens, alone and per second of sound."""
    tokens = split.lengths("text_tokens")
    seconds = split.lengths("samples") / SAMPLE_RATE_HZ
    words = sum(len(split.clip(row).text.split()) for row in range(len(split)))
    rows = _seconds(_rows(split))
    return {
        "words": words,
        "text_tokens": int(tokens.sum()),
        "words_per_sec": words / max(float(seconds.sum()), 1e-9),
        "tokens_per_sec": float(tokens.sum() / max(float(seconds.sum()), 1e-9)),
        "tokens_per_sec_p999": tokens_per_sec_p999(split),
        "clips_under_1_sec": int((seconds < 1).sum()),
        "rows": len(rows),
        "rows_under_1_sec": int((rows < 1).sum()),
    }


def tokens_per_sec_p999(split: Split) -> float:
    """Return the tokens per second that 99.9 % of the clips stay below; 0 without clips."""
    seconds = split.lengths("samples") / SAMPLE_RATE_HZ
    rates = split.lengths("text_tokens") / np.maximum(seconds, 1e-9)
    return float(np.quantile(rates, 0.999)) if len(rates) else 0.0


def _describe_stretches(split: Split) -> list[str]:
    """Return the lengths of rows and of the instances that the paper would make of them."""
    rows = _rows(split)
    config = MoonshineConfig(
        instance_min_sec=_SHORTEST_SEC,
        instance_max_sec=_LONGEST_SEC,
        max_gap_sec=_GAP_SEC,
    )
    lines = [f"rows       {len(rows)} in {len(split)} stretches", *histogram(_seconds(rows))]
    try:
        examples = arrange(split, config, evaluate=False)
    except ConfigError:  # none is long enough
        return lines
    limits = f"--instance_min_sec {_SHORTEST_SEC:g} --instance_max_sec {_LONGEST_SEC:g}"
    sums = np.add.reduceat(examples.pieces[:, 2] - examples.pieces[:, 1], examples.offsets[:-1])
    gap = f"--max_gap_sec {_GAP_SEC:g}"
    return [*lines, f"instances  with {limits} {gap}:", *histogram(sums / SAMPLE_RATE_HZ)]


def _rows(split: Split) -> list[Part]:
    return [part for clip in range(len(split)) for part in parts_of(split, clip)]


def _seconds(parts: list[Part]) -> NDArray[np.float64]:
    return np.array([part.stop - part.start for part in parts], np.float64) / SAMPLE_RATE_HZ
