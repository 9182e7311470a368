"""Words with times for rows that have a text alone: spread over the speech in their sound.

Each word takes a share of the time by its letters, as if somebody spoke evenly and without pauses.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from csm_ft.console import console, track
from csm_ft.data import audio
from csm_ft.data.inspect import SoundFile
from csm_ft.data.rows import Row
from csm_ft.data.silence import find_silence
from csm_ft.datasets.words import spread_words
from csm_ft.errors import AudioError

_LEFT = 0  # the side of a file of one channel


def spread_texts(
    rows: Mapping[str, Sequence[Row]], files: Mapping[Path, SoundFile | str], num_workers: int
) -> dict[str, list[Row]]:
    """Give words to the rows that have none, and say how many these are.

    Their sounds are read once more. Rows whose sound cannot be read stay as they are.
    """
    without = [row for of_split in rows.values() for row in of_split if not row.words]
    if not without:
        return {split: list(of_split) for split, of_split in rows.items()}
    with ThreadPoolExecutor(num_workers) as pool:
        found = pool.map(lambda row: _with_words(row, files[row.path]), without)
        with_words = list(track(found, "finding speech", len(without)))
    spread = dict(zip(map(id, without), with_words, strict=True))
    console.print(
        f"{len(without)} rows have a text without times of its words: these are spread over the"
        " speech in the sound, by their letters"
    )
    return {split: [spread.get(id(row), row) for row in of] for split, of in rows.items()}


def _with_words(row: Row, file: SoundFile | str) -> Row:
    if isinstance(file, str):
        return row
    try:
        rate_hz = file.info.sample_rate_hz
        wave = audio.load(
            row.path, sample_rate_hz=rate_hz, start_sec=row.start_sec, end_sec=row.end_sec
        )
    except AudioError:
        return row
    silence = find_silence(wave, rate_hz)
    start_sec, duration_sec = row.start_sec or 0.0, len(wave) / rate_hz
    leading_sec = 0.0 if silence.leading_sec >= duration_sec else silence.leading_sec
    end_sec = start_sec + duration_sec - silence.trailing_sec
    return replace(row, words=spread_words(row.text, start_sec + leading_sec, end_sec, _LEFT))
