"""When a worker counts as hanging."""

import pytest

from csm_ft.sweep.watchdog import longest_silence_sec


@pytest.mark.parametrize(
    ("gaps_sec", "hang_sec", "expected_sec"),
    [
        ([], 0.0, 1800.0),  # loading and compiling
        ([], 2.0, 1800.0),
        ([], 3600.0, 3600.0),
        ([0.2, 0.3, 0.2], 0.0, 1800.0),
        ([3000.0, 200.0, 210.0, 200.0], 0.0, 2050.0),  # a long first step does not count
        ([20.0], 2.0, 2.0),
    ],
)
def test_longest_silence(gaps_sec: list[float], hang_sec: float, expected_sec: float) -> None:
    assert longest_silence_sec(gaps_sec, hang_sec) == pytest.approx(expected_sec)
