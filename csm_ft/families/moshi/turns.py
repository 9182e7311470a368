"""Who speaks when, in the sound of a dialogue: shares of speech, overlap, and gaps before answers.

Speech is what is well above the noise of its channel in windows of 20 ms, with pauses under 0.3 s
in it; sounds under 0.1 s are none.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.audio import Wave
from csm_ft.data.silence import WINDOW_SEC, window_power

_PAUSE_SEC, _SHORTEST_SEC = 0.3, 0.1
_FLOOR_PERCENTILE, _ABOVE_FLOOR_DB = 5, 9.0  # the noise: pauses, of which every speaker has some
_BELOW_LOUDEST_DB, _NOTHING_DBFS = 30.0, -60.0


class Turn(NamedTuple):
    """A stretch of speech of one speaker, in windows."""

    start: int
    stop: int


def measure(wave: Wave, sample_rate_hz: int) -> dict[str, float]:
    """Measure a dialogue [2, N], Moshi on the left; what there is nothing of is left out.

    `gap_sec` is the median over the user's turns of the time from their end to Moshi's next turn,
    below 0 where Moshi begins while the user speaks. `moshi_first` is 1 if Moshi speaks first.
    """
    own, user = (find_turns(side, sample_rate_hz) for side in wave)
    length = max(1, len(window_power(wave, sample_rate_hz)))
    speaks, hears = _filled(own, length), _filled(user, length)
    facts = {
        "moshi_share": float(speaks.mean()),
        "user_share": float(hears.mean()),
        "overlap_share": float((speaks & hears).mean()),
        "silent_tail_sec": (length - (own[-1].stop if own else 0)) * WINDOW_SEC,
    }
    if own and user:
        facts["moshi_first"] = float(own[0].start < user[0].start)
    gaps = [gap for turn in user if (gap := _gap(turn, own)) is not None]
    if gaps:
        facts["gap_sec"] = float(np.median(gaps)) * WINDOW_SEC
    return facts


def find_turns(wave: Wave, sample_rate_hz: int) -> list[Turn]:
    """Return the turns in the sound [N] of one speaker."""
    if not len(wave):
        return []
    levels = 10 * np.log10(np.maximum(window_power(wave, sample_rate_hz), 1e-12))
    floor = float(np.percentile(levels, _FLOOR_PERCENTILE)) + _ABOVE_FLOOR_DB
    limit = max(floor, float(levels.max()) - _BELOW_LOUDEST_DB, _NOTHING_DBFS)
    is_loud = np.concatenate([[0], levels >= limit, [0]]).astype(int)
    edges = np.flatnonzero(np.diff(is_loud)).tolist()
    turns: list[Turn] = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if turns and (start - turns[-1].stop) * WINDOW_SEC < _PAUSE_SEC:
            turns[-1] = Turn(turns[-1].start, stop)
        else:
            turns.append(Turn(start, stop))
    return [turn for turn in turns if (turn.stop - turn.start) * WINDOW_SEC >= _SHORTEST_SEC]


def _filled(turns: list[Turn], length: int) -> NDArray[np.bool_]:
    filled = np.zeros(length, dtype=bool)
    for turn in turns:
        filled[turn.start : turn.stop] = True
    return filled


def _gap(turn: Turn, answers: list[Turn]) -> int | None:
    """Return the windows from the end of a turn to the first answer that begins within or after it.

    None where there is none.
    """
    starts = [answer.start for answer in answers if answer.start > turn.start]
    return starts[0] - turn.stop if starts else None
