"""From rows of metadata to training examples: rows of one recording joined to instances.

Successive rows become one instance as long as it fits, and no gap between them is too long; its
sound is that from the first start to the last end, gaps included, its text that of the rows in
order (Jeffries et al., arXiv 2410.15608, section 3). Imports no torch.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.console import shorten
from csm_ft.data.examples import Examples, Piece, make_examples, whole_clips
from csm_ft.data.split import Split
from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.size import SAMPLE_RATE_HZ, num_frames

SEGMENTS = "segments"  # array of a clip that is a stretch: [S, 4], see Part
_MOST_SHOWN = 3  # of the rows that are left out


class Part(NamedTuple):
    """A row of metadata within a clip, in samples and tokens of the clip."""

    clip: int
    start: int
    stop: int
    num_tokens: int  # its </s> included


class Limits(NamedTuple):
    """What an instance may be, in samples."""

    shortest: int
    longest: int
    gap: int

    @classmethod
    def of(cls, config: MoonshineConfig) -> "Limits":
        """Return the limits that the options of training name."""
        seconds = (config.instance_min_sec, config.instance_max_sec, config.max_gap_sec)
        return cls(*(round(sec * SAMPLE_RATE_HZ) for sec in seconds))


def costs(split: Split) -> NDArray[np.int64]:
    """Return the positions of each clip: encoder frames and text tokens, [n]."""
    frames = [num_frames(length) for length in split.lengths("samples").tolist()]
    return np.array(frames, dtype=np.int64) + split.lengths("text_tokens")


def arrange(split: Split, config: MoonshineConfig, *, evaluate: bool) -> Examples:
    """Arrange a split as the options say; validation has each row by itself.

    Raises ConfigError when instances are wanted of a token file that cannot give them, and when
    none is left.
    """
    limits = Limits.of(config)
    if evaluate or (not limits.shortest and not limits.longest and SEGMENTS not in split.kinds):
        return whole_clips(split, costs(split))
    if limits.longest and SEGMENTS not in split.kinds and not split.has_conversations:
        raise ConfigError(
            f"instance_max_sec {config.instance_max_sec:g} joins rows that follow each other, and"
            " this token file has each row by itself; pretokenise again with --stretch_gap_sec"
            f" {config.max_gap_sec:g} (only the joined sound is read again), or leave it out"
        )
    groups = [group for run in _runs(split, limits) for group in _fill(run, limits)]
    kept = [group for group in groups if limits.shortest <= _length(group)]
    kept = [group for group in kept if not limits.longest or _length(group) <= limits.longest]
    if groups and not kept:
        seconds = [_length(group) / SAMPLE_RATE_HZ for group in groups]
        upper = f" to instance_max_sec {config.instance_max_sec:g}" if limits.longest else ""
        raise ConfigError(
            f"no {split.name} example has instance_min_sec {config.instance_min_sec:g}{upper}: they"
            f" have {min(seconds):.1f} to {max(seconds):.1f} s; allow these"
        )
    notes = _notes(split, groups, kept, limits)
    positions = [_cost(group) for group in kept]
    examples = make_examples(split, [list(_pieces(group)) for group in kept], positions)
    return Examples(split, examples.pieces, examples.offsets, examples.costs, notes)


def parts_of(split: Split, clip: int) -> list[Part]:
    """Return the rows of metadata that a clip is made of, in order."""
    length = int(split.lengths("samples")[clip])
    if SEGMENTS not in split.kinds:
        return [Part(clip, 0, length, int(split.lengths("text_tokens")[clip]))]
    # Times are rounded, and a resampler may give a sample less.
    return [
        Part(clip, min(start, length), min(stop, length), last - first)
        for start, stop, first, last in split.array(SEGMENTS, clip).astype(np.int64).tolist()
    ]


def has_sound_parts(split: Split, clip: int) -> bool:
    """Tell whether the rows of a clip lie within its sound, and have all of its tokens."""
    if SEGMENTS not in split.kinds:
        return True
    places = split.array(SEGMENTS, clip).astype(np.int64)
    num_samples, num_tokens = split.lengths("samples")[clip], split.lengths("text_tokens")[clip]
    if not len(places):
        return False
    follow = places[0, 2] == 0 and places[-1, 3] == num_tokens
    follow = follow and bool((places[1:, 2] == places[:-1, 3]).all())
    # A resampler may give a few samples less than the times say.
    fit = bool((places[:, 0] < places[:, 1]).all()) and places[-1, 1] <= num_samples + 2
    return bool(follow and fit)


def tokens_of(split: Split, piece: Piece) -> NDArray[np.uint32]:
    """Return the tokens of the rows within a piece of a clip, each with its </s>, [L]."""
    tokens = split.array("text_tokens", piece.row)
    if SEGMENTS not in split.kinds:
        return tokens
    places = split.array(SEGMENTS, piece.row).astype(np.int64)
    # By the middle: rounded times of neighbours may overlap by a few samples.
    middles = places[:, :2].sum(1) / 2
    (inside,) = np.nonzero((piece.start <= middles) & (middles < piece.stop))
    return tokens[places[inside[0], 2] : places[inside[-1], 3]]


def _runs(split: Split, limits: Limits) -> Iterator[list[Part]]:
    """Yield rows that follow each other closely enough to be joined."""
    for clips in _successive_clips(split):
        run: list[Part] = []
        for part in (part for clip in clips for part in parts_of(split, clip)):
            if run and part.clip == run[-1].clip and part.start - run[-1].stop > limits.gap:
                yield run
                run = []
            run.append(part)
        yield run


def _successive_clips(split: Split) -> Iterator[list[int]]:
    """Yield clips that follow each other: files of one speaker, in the order of a conversation.

    No silence is invented between two files.
    """
    rows = list(range(len(split)))
    if split.has_conversations:
        rows.sort(key=lambda row: (split.conversation(row), int(split.turns[row])))
    before: list[int] = []
    for row in rows:
        if before and _follows(split, before[-1], row):
            before.append(row)
        else:
            if before:
                yield before
            before = [row]
    if before:
        yield before


def _follows(split: Split, before: int, row: int) -> bool:
    name = split.conversation(row) if split.has_conversations else ""
    if not name or name != split.conversation(before):
        return False
    is_next = split.turns[row] == split.turns[before] + 1
    is_same_speaker = split.speaker(row) == split.speaker(before)
    # Two stretches of one file are apart for a reason: a long gap, or rows that were rejected.
    return bool(is_next) and is_same_speaker and split.clip(row).source != split.clip(before).source


def _fill(run: Sequence[Part], limits: Limits) -> list[list[Part]]:
    """Cut a run into instances, each as long as it may be, the last one not too short."""
    groups: list[list[Part]] = []
    for part in run:
        if groups and _length([*groups[-1], part]) <= limits.longest:
            groups[-1].append(part)
        else:
            groups.append([part])
    while len(groups) > 1 and _length(groups[-1]) < limits.shortest:
        before, last = groups[-2:]
        fewer, more = before[:-1], [before[-1], *last]
        if not fewer or _length(fewer) < limits.shortest or _length(more) > limits.longest:
            break
        groups[-2:] = [fewer, more]
    return groups


def _pieces(group: Sequence[Part]) -> Iterator[Piece]:
    """Yield the parts of an instance as pieces, one for each clip."""
    for clip, parts in groupby(group, key=lambda part: part.clip):
        of_clip = list(parts)
        yield Piece(clip, of_clip[0].start, of_clip[-1].stop)


def _length(group: Sequence[Part]) -> int:
    """Return the samples of an instance, gaps included."""
    own = sum(part.stop - part.start for part in group)
    gaps = (b.start - a.stop for a, b in pairwise(group) if a.clip == b.clip)
    return own + sum(gaps)


def _cost(group: Sequence[Part]) -> int:
    """Return the positions of an instance: one </s> for all its rows."""
    num_tokens = sum(part.num_tokens for part in group) - (len(group) - 1)
    return num_frames(_length(group)) + num_tokens


def _notes(
    split: Split, groups: Sequence[Sequence[Part]], kept: Sequence[Sequence[Part]], limits: Limits
) -> list[str]:
    """Return lines on the instances, and on what is too short or too long for one."""
    num_rows = sum(map(len, kept))
    seconds = np.array([_length(group) for group in kept]) / SAMPLE_RATE_HZ
    notes = [
        f"{len(kept)} instances of {seconds.min():.1f}-{seconds.max():.1f} s"
        f" (median {np.median(seconds):.1f}) from {num_rows} rows, {seconds.sum() / 3600:.2f} h"
    ]
    short = [group for group in groups if _length(group) < limits.shortest]
    long = [group for group in groups if 0 < limits.longest < _length(group)]
    for what, left_out in (("too short", short), ("too long", long)):
        if left_out:
            hours = sum(map(_length, left_out)) / SAMPLE_RATE_HZ / 3600
            shown = [_name(split, group) for group in left_out]
            notes.append(
                f"left out as {what}: {len(left_out)} instances, {hours:.2f} h:"
                f" {shorten(shown, _MOST_SHOWN)}"
            )
    return notes


def _name(split: Split, group: Sequence[Part]) -> str:
    clip = split.clip(group[0].clip)
    times = [clip.start_sec + at / SAMPLE_RATE_HZ for at in (group[0].start, group[-1].stop)]
    return f"{clip.source} {times[0]:.2f}-{times[1]:.2f} s"
