"""Silence before and after speech cut off: the spans of rows made narrower, before any is encoded.

A clip's id names its span, so a trimmed clip is another one; where there is nothing to cut, it is
the same.
"""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from csm_ft.console import console, track
from csm_ft.data.inspect import SoundFile
from csm_ft.data.rows import Row
from csm_ft.errors import AudioError
from csm_ft.pretokenize.clips import Job, Span, check_row
from csm_ft.pretokenize.rejections import Rejections

MARGIN_SEC = 0.15  # of the silence that stays: a soft onset, the end of a breath


def trim_silence(
    job: Job,
    spans: Mapping[str, Sequence[Span]],
    files: Mapping[Path, SoundFile | str],
    rejections: Rejections,
) -> dict[str, list[Span]]:
    """Return the spans of each split without the silence at their ends, and say how much was cut.

    Every sound is read once more. What is then too short is rejected; what cannot be read stays as
    it is, and is rejected when it is encoded.
    """
    every_span = list(itertools.chain.from_iterable(spans.values()))
    with ThreadPoolExecutor(job.config.num_workers) as pool:
        rows = pool.map(lambda span: _trim(job, span), every_span)
        trimmed = iter(list(track(rows, "finding silence", len(every_span))))
    kept: dict[str, list[Span]] = {}
    cut_sec = 0.0
    for split, of_split in spans.items():
        kept[split] = []
        for span in of_split:
            row = next(trimmed)
            outcome = span if row is span.row else check_row(job, row, files[row.path])
            if isinstance(outcome, str):
                rejections.add_row(split, span.row, f"after --trim_silence: {outcome}")
            else:
                kept[split].append(outcome)
                cut_sec += span.duration_sec - outcome.duration_sec
    total_sec = sum(span.duration_sec for span in every_span)
    console.print(
        f"--trim_silence: {cut_sec / 60:.1f} of {total_sec / 60:.1f} minutes are silence at the"
        " ends of clips, and cut"
    )
    return kept


def _trim(job: Job, span: Span) -> Row:
    """Return the row of a span with the times of its speech, or as it is if there is no silence."""
    try:
        measures = job.load(span)[1]
    except AudioError:
        return span.row
    before_sec = max(0.0, measures.leading_silence_sec - MARGIN_SEC)
    after_sec = max(0.0, measures.trailing_silence_sec - MARGIN_SEC)
    is_silent = measures.leading_silence_sec >= span.duration_sec  # a note says so
    if is_silent or not before_sec + after_sec:
        return span.row
    start_sec, end_sec = span.start_sec + before_sec, span.end_sec - after_sec
    return replace(span.row, start_sec=round(start_sec, 6), end_sec=round(end_sec, 6))
