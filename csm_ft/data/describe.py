"""A description of a token file, as text and as JSON: hours, clips, speakers, lengths, notes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import DUPLICATE, Clip, Split, Store
from csm_ft.data.tag_table import tag_tables

LEVEL_FACT = "level_dbfs"  # under which a token file keeps the level of its clips

_EDGES_SEC = (0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 60, 120)  # of the histogram; the last bin is open
_BAR_CHARS = 40
_FEW_VAL_CLIPS = 8
_MAX_SPEAKERS = 8  # shown per split


def summarise(store: Store, of_family: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of a token file as JSON values; `of_family` adds facts to each split."""
    info = store.info
    splits = {
        name: {**_summarise_split(split), **of_family.get(name, {})}
        for name, split in store.splits.items()
    }
    return {
        "splits": splits,
        **tag_tables(store).to_json(),
        "family": info.family,
        **info.facts,
        "sample_rate_hz": info.sample_rate_hz,
        "frame_sec": info.frame_sec,
        "content_fingerprint": info.content_fingerprint,
        "schema_version": info.schema_version,
    }


def describe_store(store: Store, family_lines: Sequence[str]) -> str:
    """Return the facts of a token file as text; `family_lines` are added by its family."""
    lines = [str(store.path)]
    for split in store.splits.values():
        lines += _describe_split(split)
    num_shared = _num_shared(store)
    if num_shared:
        lines.append(
            f"note   {num_shared} validation clips are training clips, too: the validation loss"
            " will flatter the model"
        )
    num_val = len(store.splits["val"])
    if 0 < num_val < _FEW_VAL_CLIPS:
        lines.append(
            f"note   {num_val} validation clips cannot tell a better model from a lucky one: more"
            " --val_data, or a larger --val_fraction"
        )
    lines += [f"note   {note}" for note in store.notes]
    durations_sec = [split.durations_sec for split in store.splits.values()]
    lines += ["", *histogram(np.concatenate(durations_sec)), *tag_tables(store).lines()]
    lines += ["", *family_lines]
    info = store.info
    if LEVEL_FACT in info.facts:
        lines.append(f"level      each clip was brought to {info.facts[LEVEL_FACT]:g} dBFS")
    lines.append(
        f"content    {info.content_fingerprint}  (schema {info.schema_version}, family"
        f" {info.family})"
    )
    return "\n".join(lines)


def histogram(seconds: NDArray[np.floating]) -> list[str]:
    """Return a histogram of clip lengths as lines of text, from the first to the last full bin."""
    counts, _ = np.histogram(seconds, bins=[*_EDGES_SEC, np.inf])
    filled = np.flatnonzero(counts)
    if not len(filled):
        return ["(no clips)"]
    lines = []
    for i in range(filled[0], filled[-1] + 1):
        is_open = i + 1 == len(_EDGES_SEC)
        label = f"over {_EDGES_SEC[i]} s" if is_open else f"{_EDGES_SEC[i]}-{_EDGES_SEC[i + 1]} s"
        num_chars = max(int(counts[i] > 0), round(_BAR_CHARS * counts[i] / counts.max()))
        lines.append(f"{label:>10} {counts[i]:7} {'#' * num_chars}".rstrip())
    return lines


def _describe_split(split: Split) -> list[str]:
    facts = _summarise_split(split)
    hours, num_speakers = _hours(facts["seconds"]), len(facts["speakers"])
    lines = [f"{split.name:6} {len(split):7} clips  {hours}  {num_speakers} speakers"]
    if facts["speakers"]:
        ranked = sorted(facts["speakers"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{speaker} ({count})" for speaker, count in ranked[:_MAX_SPEAKERS])
        more = ", ..." if len(ranked) > _MAX_SPEAKERS else ""
        lines.append(f"       speakers: {shown}{more}")
    if facts["conversations"]:
        lines.append(f"       {_describe_conversations(facts)}")
    if facts["duplicates"]:
        lines.append(f"       {facts['duplicates']} clips repeat an earlier one, audio and text")
    return lines


def _summarise_split(split: Split) -> dict[str, Any]:
    clips = [split.clip(i) for i in range(len(split))]
    return {
        "clips": len(split),
        "seconds": round(sum(clip.duration_sec for clip in clips), 3),
        "speakers": dict(Counter(clip.speaker for clip in clips if clip.speaker)),
        "duplicates": sum(bool(clip.flags & DUPLICATE) for clip in clips),
        **_summarise_conversations(clips),
    }


def _summarise_conversations(clips: Sequence[Clip]) -> dict[str, Any]:
    turns: dict[str, list[int]] = {}
    for clip in clips:
        if clip.conversation:
            turns.setdefault(clip.conversation, []).append(clip.turn)
    counts = [len(places) for places in turns.values()]
    lengths = None
    if counts:
        lengths = {"min": min(counts), "median": median(counts), "max": max(counts)}
    # Turn numbers that span more than the number of turns have gaps: turns were rejected.
    num_holes = sum(max(places) - min(places) >= len(places) for places in turns.values())
    return {
        "conversations": len(turns),
        "turns_per_conversation": lengths,
        "conversations_with_holes": num_holes,
    }


def _describe_conversations(facts: Mapping[str, Any]) -> str:
    turns, num_cut = facts["turns_per_conversation"], facts["conversations_with_holes"]
    lengths = f"{turns['min']}-{turns['max']}" if turns["min"] < turns["max"] else turns["min"]
    verb = "was" if num_cut == 1 else "were"
    cut = f"; {num_cut} {verb} cut at rejected turns" if num_cut else ""
    median_turns = f"{turns['median']:g}"
    return f"{facts['conversations']} conversations of {lengths} turns (median {median_turns}){cut}"


def _num_shared(store: Store) -> int:
    train = set(store.splits["train"].ids)
    return sum(id_ in train for id_ in store.splits["val"].ids)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
