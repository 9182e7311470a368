"""What judges hear of a stereo sound."""

import numpy as np
import pytest

from csm_ft.evaluate.recordings import one_channel


def noise(level: float, seed: int) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(8000)).astype(np.float32)


def test_one_channel_is_heard_as_it_is() -> None:
    wave = noise(0.1, 0)
    assert one_channel(wave) is wave


@pytest.mark.parametrize("side", [0, 1])
def test_side_that_says_nothing_is_left_out(side: int) -> None:
    wave = np.stack([noise(0.1, 0), noise(0.1, 1)])
    wave[1 - side] *= 0.01
    np.testing.assert_array_equal(one_channel(wave), wave[side])


def test_both_sides_of_a_dialogue_are_mixed() -> None:
    wave = np.stack([noise(0.1, 0), noise(0.03, 1)])
    np.testing.assert_array_equal(one_channel(wave), wave.mean(axis=0))


def test_nothing_is_mixed_of_nothing() -> None:
    assert one_channel(np.zeros((2, 0), np.float32)).shape == (0,)
