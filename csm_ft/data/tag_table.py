"""How clips of each emotion, source and speaker sound, where the clips have tags."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from csm_ft.data.overlap import Said, Shared, find_shared
from csm_ft.data.pitch import NOT_INSTALLED, pyworld
from csm_ft.data.split import Clip, Store

_TAGS = ("emotion", "source")
_MAX_ROWS = 12  # of a table on the console
_HEADER = (
    *("clips", "val", "hours", "level dBFS", "clipped", "noise dBFS"),
    *("silence before", "after, s", "chars/s", "F0 Hz", "range st"),
)


@dataclass(frozen=True)
class Sound:
    """The clips of a group; NaN = not measured. What is not a sum or a share is a median."""

    clips: int
    val_clips: int
    hours: float
    level_dbfs: float
    clipped_share: float  # the mean over clips: most have none
    noise_floor_dbfs: float
    leading_silence_sec: float
    trailing_silence_sec: float
    chars_per_sec: float  # of a clip without the silence at its ends
    f0_median_hz: float
    f0_range_st: float  # within a clip, 5 to 95 % of its voiced frames

    def cells(self) -> list[str]:
        """Return what a table shows."""
        return [
            *(str(self.clips), str(self.val_clips), f"{self.hours:.2f}"),
            *(_cell(self.level_dbfs, ".1f"), _cell(self.clipped_share, ".2%")),
            _cell(self.noise_floor_dbfs, ".1f"),
            _cell(self.leading_silence_sec, ".2f"),
            _cell(self.trailing_silence_sec, ".2f"),
            _cell(self.chars_per_sec, ".1f"),
            *(_cell(self.f0_median_hz, ".0f"), _cell(self.f0_range_st, ".1f")),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the values rounded; None = not measured."""
        return {
            name: None if math.isnan(value) else round(value, 4)
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class TagTables:
    """A table for each column, and what stands on both sides of the split."""

    by: dict[str, dict[str, Sound]]  # column -> value -> its clips
    shared: dict[str, Shared]

    def lines(self) -> Iterator[str]:
        """Yield the tables as text, groups with the most clips first."""
        for column, sounds in self.by.items():
            yield ""
            yield from _table(column, sounds)
        if self.by and pyworld() is None:
            yield f"F0 is not measured: {NOT_INSTALLED}"
        if self.shared:
            yield ""
        yield from (shared.describe(what) for what, shared in self.shared.items())

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        tables = {
            f"by_{column}": {value: sound.to_json() for value, sound in sounds.items()}
            for column, sounds in self.by.items()
        }
        shared = {f"{what}_on_both_sides": one.names for what, one in self.shared.items()}
        return {**tables, **shared}


def tag_tables(store: Store) -> TagTables:
    """Return the tables of a token file; none where no clip has an emotion or a source."""
    if not any(split.has_tags for split in store.splits.values()):
        return TagTables({}, {})
    clips = [
        (name, split.clip(index))
        for name, split in store.splits.items()
        for index in range(len(split))
    ]
    columns = [tag for tag in _TAGS if any(tag in clip.tags for _, clip in clips)]
    if not columns:
        return TagTables({}, {})
    tables: dict[str, dict[str, Sound]] = {}
    for column in (*columns, "speaker"):
        groups: dict[str, list[tuple[str, Clip]]] = {}
        for split, clip in clips:
            value = clip.speaker if column == "speaker" else clip.tags.get(column, "")
            groups.setdefault(value or "(none)", []).append((split, clip))
        ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
        tables[column] = {value: _sound(of_value) for value, of_value in ranked}
    said = (Said(split == "train", clip.speaker, clip.text) for split, clip in clips)
    return TagTables(tables, find_shared(said))


def _sound(clips: Sequence[tuple[str, Clip]]) -> Sound:
    measured = [clip.measures for _, clip in clips]
    return Sound(
        clips=len(clips),
        val_clips=sum(split == "val" for split, _ in clips),
        hours=math.fsum(clip.duration_sec for _, clip in clips) / 3600,
        level_dbfs=_median([one.level_dbfs for one in measured]),
        clipped_share=_mean([one.clipped_share for one in measured]),
        noise_floor_dbfs=_median([one.noise_floor_dbfs for one in measured]),
        leading_silence_sec=_median([one.leading_silence_sec for one in measured]),
        trailing_silence_sec=_median([one.trailing_silence_sec for one in measured]),
        chars_per_sec=_median([_chars_per_sec(clip) for _, clip in clips]),
        f0_median_hz=_median([one.f0_median_hz for one in measured]),
        f0_range_st=_median([one.f0_range_st for one in measured]),
    )


def _chars_per_sec(clip: Clip) -> float:
    measures = clip.measures
    silence_sec = measures.leading_silence_sec + measures.trailing_silence_sec
    speech_sec = clip.duration_sec - (0.0 if math.isnan(silence_sec) else silence_sec)
    return len(clip.text) / speech_sec if speech_sec > 0 else math.nan


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _cell(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _table(column: str, sounds: dict[str, Sound]) -> Iterator[str]:
    rows = [(column, *_HEADER)]
    rows += [(value, *sound.cells()) for value, sound in list(sounds.items())[:_MAX_ROWS]]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for first, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *right])
    if len(sounds) > _MAX_ROWS:
        yield f"and {len(sounds) - _MAX_ROWS} more"
