"""What is in a token file of dialogues, for people. Imports no torch."""

from typing import Any

import numpy as np

from csm_ft.console import shorten
from csm_ft.data.split import Split, Store
from csm_ft.families.moshi.arrange import LEFT, RIGHT
from csm_ft.families.moshi.data import interleaver
from csm_ft.families.moshi.interleave import timed_tokens

_SPEAKERS = {LEFT: "left", RIGHT: "right"}
_MANY_LOST = 0.01  # of the tokens, from which it is a warning
_MAX_WORST = 3


def describe(store: Store) -> list[str]:
    """Return a line for each split and speaker, and what encoded them."""
    facts, lines = store.info.facts, []
    for split in store.splits.values():
        counts = summarise(split)
        hours = counts["frames"] * float(facts["frame_sec"]) / 3600
        lines.append(f"{split.name:10} {counts['frames']} frames, {hours:.2f} h of both speakers")
        for name in _SPEAKERS.values():
            one = counts[name]
            share = one["tokens_lost"] / max(1, one["text_tokens"])
            worst = f" (worst: {shorten(one['worst'], _MAX_WORST)})" if one["tokens_lost"] else ""
            mark = "warning: " if share > _MANY_LOST else ""
            lines.append(
                f"  {name:8} {one['words']} words, speaks {one['speech_share']:.0%} of the time;"
                f" {mark}{one['tokens_lost']} of {one['text_tokens']} text tokens are left out by"
                f" the rule {facts['interleave']}{worst}"
            )
    return [
        *lines,
        f"codec      {facts['codec']}, {facts['num_codebooks']} codebooks of {facts['card']} codes"
        f" for each channel ({facts['codec_source']})",
        f"tokenizer  {facts['text_vocab_size']} ids ({facts['tokenizer']}), padding"
        f" {facts['text_padding_id']}, end of padding {facts['end_of_text_padding_id']}",
    ]


def summarise(split: Split) -> dict[str, Any]:
    """Count frames, and for each speaker words, speech and the tokens that are left out."""
    rule, lengths = interleaver(split), split.lengths("codes").tolist()
    total_sec = sum(lengths) * rule.frame_sec
    facts: dict[str, Any] = {"frames": sum(lengths)}
    for speaker, name in _SPEAKERS.items():
        num_words, num_tokens, speech_sec = 0, 0, 0.0
        lost: dict[int, int] = {}
        for row, num_frames in enumerate(lengths):
            table = split.array("words", row)
            words = timed_tokens(table, split.array("text_tokens", row), speaker)
            num_words += len(words)
            num_tokens += sum(len(word.tokens) for word in words)
            speech_sec += sum(word.end_sec - word.start_sec for word in words)
            lost[row] = rule.window(words, 0, num_frames)[1]
        worst = sorted((row for row in lost if lost[row]), key=lost.__getitem__, reverse=True)
        facts[name] = {
            "words": num_words,
            "text_tokens": num_tokens,
            "speech_share": speech_sec / max(total_sec, 1e-9),
            "tokens_lost": sum(lost.values()),
            "worst": [f"{split.clip(row).source} {lost[row]}" for row in worst[:_MAX_WORST]],
        }
    return facts


def find_problems(split: Split, store: Store) -> dict[str, list[int]]:
    """Find clips that no model can be trained on."""
    facts = store.info.facts
    card, text_ids = int(facts["card"]), int(facts["text_vocab_size"])
    found: dict[str, list[int]] = {}
    for what, array, limit in (
        (f"codes of {card} or more", "codes", card),
        (f"text tokens of {text_ids} or more", "text_tokens", text_ids),
    ):
        clips: set[int] = set()
        for start, block in split.blocks(array):
            is_high = (block >= limit).reshape(len(block), -1).any(axis=1)
            rows = np.flatnonzero(is_high).tolist()
            clips |= {split.clip_at(array, start + row) for row in rows}
        found[what] = sorted(clips)
    rows = range(len(split))
    num_tokens = [int(split.array("words", row)[:, 3].sum()) for row in rows]
    lengths = split.lengths("text_tokens").tolist()
    return {
        **found,
        "no frames": np.flatnonzero(split.lengths("codes") == 0).tolist(),
        "words that do not fit their tokens": [r for r in rows if num_tokens[r] != lengths[r]],
    }
