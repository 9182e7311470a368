"""Training rows that follow each other in one recording, kept as one clip: a stretch.

The sound between the rows is kept, too, so that training can cut a stretch into other examples
without reading a sound file again. Rows are not joined across a longer gap, another speaker, other
tags or another weight, nor where a rejected row, or one of the other split, lies between them.
Validation rows stay clips of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.inspect import SoundFile
from csm_ft.families.encoder import Segment
from csm_ft.pretokenize.clips import Job, Span, make_span
from csm_ft.pretokenize.rejections import Rejections

Times = Sequence[tuple[float, float]]  # start and end in seconds


def join_rows(
    job: Job,
    spans: Mapping[str, Sequence[Span]],
    files: Mapping[Path, SoundFile | str],
    rejections: Rejections,
) -> dict[str, list[Span]]:
    """Return the training spans joined to stretches; each span has the arrays of join_text."""
    joined: dict[str, list[Span]] = {}
    for split, of_split in spans.items():
        others = [span for name, some in spans.items() if name != split for span in some]
        stretches = [[span] for span in of_split]
        if split == "train":
            stretches = find_stretches(of_split, others, rejections, job.encoder.max_gap_sec)
        joined[split] = [_join(job, stretch, files) for stretch in stretches]
    num_rows, num_stretches = len(spans["train"]), len(joined["train"])
    console.print(f"{num_rows} training rows are in {num_stretches} stretches of recordings")
    return joined


def find_stretches(
    spans: Sequence[Span], others: Sequence[Span], rejections: Rejections, max_gap_sec: float
) -> list[list[Span]]:
    """Return the spans of each stretch, in the order of the stretches' first rows."""
    places = {id(span): place for place, span in enumerate(spans)}
    taken: dict[str, list[tuple[float, float]]] = {}  # by sound file
    for other in others:
        taken.setdefault(other.file_digest, []).append((other.start_sec, other.end_sec))
    in_order = sorted(spans, key=lambda span: (*_recording(span), span.start_sec, span.end_sec))
    stretches: list[list[Span]] = []
    for _, recording in groupby(in_order, key=_recording):
        of_recording = list(recording)
        paths = {span.row.path for span in of_recording}
        between = [times for path in paths for times in rejections.spans_of(path)]
        between += taken.get(of_recording[0].file_digest, [])
        stretches.append(of_recording[:1])
        for before, span in pairwise(of_recording):
            if _follows(before, span, max_gap_sec) and not _is_between(before, span, between):
                stretches[-1].append(span)
            else:
                stretches.append([span])
    return sorted(stretches, key=lambda stretch: places[id(stretch[0])])


def _recording(span: Span) -> tuple[str, str]:
    return span.file_digest, span.row.channel


def _follows(before: Span, span: Span, max_gap_sec: float) -> bool:
    """Tell whether a span continues the one before it."""
    gap_sec = span.start_sec - before.end_sec
    is_near = -audio.TOLERANCE_SEC <= gap_sec <= max_gap_sec + audio.TOLERANCE_SEC / 10
    names = ("speaker", "conversation", "tags", "weight")
    return is_near and all(getattr(before.row, n) == getattr(span.row, n) for n in names)


def _is_between(before: Span, span: Span, times: Times) -> bool:
    """Tell whether any of the times reaches into the gap between two spans."""
    first_sec, last_sec = before.end_sec, max(before.end_sec, span.start_sec)
    return any(start <= last_sec and end >= first_sec for start, end in times)


def _join(job: Job, spans: Sequence[Span], files: Mapping[Path, SoundFile | str]) -> Span:
    """Return several spans as one; its text has a line for each of them."""
    first, last = spans[0], spans[-1]
    rate = job.encoder.sample_rate_hz / job.frame_samples  # rows of the first array per second
    segments = [
        Segment(
            round((span.start_sec - first.start_sec) * rate),
            round((span.end_sec - first.start_sec) * rate),
            span.text,
        )
        for span in spans
    ]
    arrays = job.encoder.join_text(segments)
    if len(spans) == 1:
        return replace(first, text=arrays)
    lines = [" ".join(span.row.text.split("\n")) for span in spans]
    row = replace(first.row, text="\n".join(lines), start_sec=first.start_sec, end_sec=last.end_sec)
    file = files[first.row.path]
    assert isinstance(file, SoundFile), "a span lies in a sound file"
    stretch = make_span(job, row, file, (first.start_sec, last.end_sec), arrays)
    return replace(stretch, parts=tuple(spans))
