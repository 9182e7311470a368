"""Turns of a dialogue: shares, overlap and gaps of a dialogue that is known."""

import numpy as np
import pytest

from csm_ft.families.moshi.turns import find_turns, measure

RATE_HZ = 16000


def dialogue(own: list[tuple[float, float]], user: list[tuple[float, float]]) -> np.ndarray:
    wave = np.zeros((2, 10 * RATE_HZ), dtype=np.float32)
    for side, turns in enumerate((own, user)):
        for start, stop in turns:
            times = np.arange(round(start * RATE_HZ), round(stop * RATE_HZ))
            wave[side, times] = 0.2 * np.sin(2 * np.pi * 300 * times / RATE_HZ)
    return wave


def test_known_dialogue_is_measured() -> None:
    wave = dialogue([(3.0, 5.0), (7.5, 8.0)], [(1.0, 2.5), (4.0, 7.0)])
    facts = measure(wave, RATE_HZ)
    assert facts == {
        "moshi_share": pytest.approx(0.25, abs=0.005),
        "user_share": pytest.approx(0.45, abs=0.005),
        "overlap_share": pytest.approx(0.1, abs=0.005),
        "silent_tail_sec": pytest.approx(2.0, abs=0.05),
        "moshi_first": 0.0,
        "gap_sec": pytest.approx(0.5, abs=0.05),
    }


def test_answer_before_the_end_has_a_gap_below_zero() -> None:
    facts = measure(dialogue([(1.5, 4.0)], [(1.0, 2.0)]), RATE_HZ)
    assert facts["gap_sec"] == pytest.approx(-0.5, abs=0.05)


def test_silence_of_one_side_leaves_out_what_is_not_there() -> None:
    assert measure(dialogue([], [(1.0, 2.0)]), RATE_HZ).keys() == {
        "moshi_share",
        "user_share",
        "overlap_share",
        "silent_tail_sec",
    }
    assert measure(np.zeros((2, 0), np.float32) + 0.0, RATE_HZ)["moshi_share"] == 0


def test_noise_of_a_channel_is_no_speech() -> None:
    wave = dialogue([(3.0, 5.0)], [(1.0, 2.5)])
    noise = np.random.default_rng(0).standard_normal(wave.shape)
    noisy = (wave + 0.02 * noise).astype(np.float32)  # -34 dBFS
    assert measure(noisy, RATE_HZ)["moshi_share"] == pytest.approx(0.2, abs=0.01)
    assert measure(noisy * [[1.0], [0.01]], RATE_HZ)["user_share"] == pytest.approx(0.15, abs=0.01)
    assert find_turns(0.02 * noise[0].astype(np.float32), RATE_HZ) == []


def test_pauses_join_and_clicks_do_not_count() -> None:
    (wave, _) = dialogue([(1.0, 1.5), (1.7, 2.0), (3.0, 3.02)], [])
    (turn,) = find_turns(wave, RATE_HZ)
    assert (turn.start, turn.stop) == (50, 100)
