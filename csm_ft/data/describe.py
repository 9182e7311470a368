"""What is in a token file, for people and as JSON.

Hours, clips, speakers, lengths, and what is wrong.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import DUPLICATE, Clip, Split, Store

_EDGES_SEC = (
    0,
    1,
    2,
    4,
    6,
    8,
    10,
    15,
    20,
    30,
    60,
    120,
)  # bins of the length histogram; the last one is open
_BAR_CHARS = 40
_FEW_VAL_CLIPS = 8
_MAX_PROBLEMS = 10  # named per kind and split


def summarise(store: Store) -> dict[str, Any]:
    """Return the facts of a token file as JSON values."""
    return {
        "splits": {name: _summarise_split(split, store) for name, split in store.splits.items()},
        **vars(store.info),
    }


def describe_store(store: Store) -> str:
    """Return the facts of a token file as text."""
    info = store.info
    lines = [str(store.path)]
    for name, split in store.splits.items():
        facts = _summarise_split(split, store)
        lines.append(
            f"{name:6} {len(split):7} clips  {_hours(facts['seconds'])}  {facts['frames']} frames "
            f" {facts['text_tokens']} text tokens  {len(facts['speakers'])} speakers"
        )
        if facts["speakers"]:
            shown = sorted(facts["speakers"].items(), key=lambda item: -item[1])[:8]
            more = ", ..." if len(facts["speakers"]) > len(shown) else ""
            lines.append(
                "       speakers: "
                + ", ".join(f"{speaker} ({count})" for speaker, count in shown)
                + more
            )
        if facts["conversations"]:
            lines.append(f"       {_told(facts)}")
        if facts["duplicates"]:
            lines.append(
                f"       {facts['duplicates']} clips repeat an earlier one, audio and text"
            )
    shared = _num_shared(store)
    if shared:
        lines.append(
            f"note   {shared} validation clips are training clips, too: the validation loss will"
            " flatter the model"
        )
    num_val = len(store.splits["val"])
    if 0 < num_val < _FEW_VAL_CLIPS:
        lines.append(
            f"note   {num_val} validation clips cannot tell a better model from a lucky one: more"
            " --val_data, or a larger --val_fraction"
        )
    lines += [f"note   {note}" for note in store.notes]
    lines += [
        "",
        *histogram(
            np.concatenate([split.num_frames for split in store.splits.values()]) * info.frame_sec
        ),
        "",
    ]
    lines += [
        (
            f"codec      {info.codec}, {info.num_codebooks} codebooks of {info.codec_vocab_size}"
            f" ids, {info.sample_rate_hz} Hz, {1 / info.frame_sec:g} frames per second"
            f" ({info.codec_source})"
        ),
        f"           {info.codec_fingerprint or 'hash not known'}",
        f"tokenizer  {info.text_vocab_size} ids, template {info.template!r} ({info.tokenizer})",
        f"           {info.tokenizer_fingerprint or 'hash not known'}",
        (
            f"content    {info.content_fingerprint}  (schema {info.schema_version}, family"
            f" {info.family})"
        ),
    ]
    return "\n".join(lines)


def histogram(seconds: NDArray[np.floating]) -> list[str]:
    """Return clip lengths as lines of text bars.

    Bins before the first and after the last clip are left out.
    """
    counts, _ = np.histogram(seconds, bins=[*_EDGES_SEC, np.inf])
    filled = np.flatnonzero(counts)
    if not len(filled):
        return ["(no clips)"]
    lines = []
    for i in range(filled[0], filled[-1] + 1):
        label = (
            f"{_EDGES_SEC[i]}-{_EDGES_SEC[i + 1]} s"
            if i + 1 < len(_EDGES_SEC)
            else f"over {_EDGES_SEC[i]} s"
        )
        bar = "#" * max(int(counts[i] > 0), round(_BAR_CHARS * counts[i] / counts.max()))
        lines.append(f"{label:>10} {counts[i]:7} {bar}".rstrip())
    return lines


def find_problems(store: Store) -> list[str]:
    """Return what no model could be trained on.

    Ids out of range, empty clips, end of speech inside a clip, two turns in one place.
    """
    problems = []
    for name, split in store.splits.items():
        for what, rows in _bad_rows(split, store).items():
            shown = ", ".join(map(str, rows[:_MAX_PROBLEMS])) + (
                ", ..." if len(rows) > _MAX_PROBLEMS else ""
            )
            problems += (
                [f"{name}: {len(rows)} clips with {what}: {shown}; pretokenise again"]
                if rows
                else []
            )
    return problems


def _bad_rows(split: Split, store: Store) -> dict[str, list[int]]:
    codes_high, ended, text_high = set[int](), set[int](), set[int]()
    for start, block in split.blocks("codes"):
        codes_high |= {
            split.clip_at(start + int(row))
            for row in np.flatnonzero((block >= store.info.codec_vocab_size).any(axis=1))
        }
        ended |= {split.clip_at(start + int(row)) for row in np.flatnonzero(~block.any(axis=1))}
    if any((block >= store.info.text_vocab_size).any() for _, block in split.blocks("text_tokens")):
        text_high = {
            i
            for i in range(len(split))
            if (split.text_tokens(i) >= store.info.text_vocab_size).any()
        }
    return {
        "no frames": np.flatnonzero(split.num_frames == 0).tolist(),
        "no text tokens": np.flatnonzero(split.num_text_tokens == 0).tolist(),
        f"codes of {store.info.codec_vocab_size} or more": sorted(codes_high),
        "an all-zero frame, which means end of speech": sorted(ended),
        f"text tokens of {store.info.text_vocab_size} or more": sorted(text_high),
        "the place of an earlier clip in its conversation": _same_turn(split),
    }


def _summarise_split(split: Split, store: Store) -> dict[str, Any]:
    clips = [split.clip(i) for i in range(len(split))]
    return {
        "clips": len(split),
        "seconds": round(sum(clip.duration_sec for clip in clips), 3),
        "frames": int(split.num_frames.sum()),
        "text_tokens": int(split.num_text_tokens.sum()),
        "speakers": dict(Counter(clip.speaker for clip in clips if clip.speaker)),
        "duplicates": sum(bool(clip.flags & DUPLICATE) for clip in clips),
        **_summarise_conversations(clips),
        "longest_positions": int((split.num_frames + split.num_text_tokens + 1).max(initial=0)),
    }


def _summarise_conversations(clips: Sequence[Clip]) -> dict[str, Any]:
    turns: dict[str, list[int]] = {}
    for clip in clips:
        if clip.conversation:
            turns.setdefault(clip.conversation, []).append(clip.turn)
    counts = [len(places) for places in turns.values()]
    return {
        "conversations": len(turns),
        "turns_per_conversation": (
            {"min": min(counts), "median": median(counts), "max": max(counts)} if counts else None
        ),
        "conversations_with_holes": sum(
            max(places) - min(places) >= len(places) for places in turns.values()
        ),
    }


def _told(facts: dict[str, Any]) -> str:
    """Say what a split has of conversations."""
    turns, num_cut = facts["turns_per_conversation"], facts["conversations_with_holes"]
    cut = (
        f"; {num_cut} {'was' if num_cut == 1 else 'were'} cut at rejected turns" if num_cut else ""
    )
    lengths = f"{turns['min']}-{turns['max']}" if turns["min"] < turns["max"] else turns["min"]
    return (
        f"{facts['conversations']} conversations of {lengths} turns (median"
        f" {turns['median']:g}){cut}"
    )


def _same_turn(split: Split) -> list[int]:
    if not split.has_conversations:
        return []
    seen: set[tuple[str, int]] = set()
    rows = []
    for i in range(len(split)):
        place = (split.conversation(i), int(split.turns[i]))
        if place[0] and place in seen:
            rows.append(i)
        seen.add(place)
    return rows


def _num_shared(store: Store) -> int:
    train = set(store.splits["train"].ids)
    return sum(id_ in train for id_ in store.splits["val"].ids)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
