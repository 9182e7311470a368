"""Emotions whose pitch, energy and rate are known."""

import numpy as np
import pytest

from csm_ft.evaluate.expression import Expression, compare_expression, expression_values
from csm_ft.evaluate.judge import JudgedClip
from tests.helpers.judging import clip

MOVES = {
    "neutral": (0.0, 0.0, 0.0),
    "angry": (3.0, 8.0, 2.0),
    "sad": (-2.0, -5.0, -3.0),
    "happy": (5.0, 3.0, 1.0),
}


def judged(emotion: str, speaker: str, offset: float, noise: np.ndarray) -> JudgedClip:
    f0, energy, rate = np.array(MOVES[emotion]) + noise
    values = {
        "f0_mean_st": offset + f0,
        "energy_mean_db": -30 + energy,
        "letters_per_sec": 14 + rate,
    }
    tags = {"emotion": emotion}
    return JudgedClip(clip("x", "text", 0.1, speaker=speaker, tags=tags), values, {})


def people(asked: dict[str, str] | None = None, seed: int = 0) -> list[JudgedClip]:
    """Two speakers, six clips of each emotion; `asked` gives clips another tag than they sound."""
    random = np.random.default_rng(seed)
    clips = []
    for speaker, offset in (("ann", 12.0), ("ben", 0.0)):
        for emotion in MOVES:
            for _ in range(6):
                one = judged(emotion, speaker, offset, random.normal(0, 0.3, 3))
                tag = (asked or {}).get(emotion, emotion)
                one.clip.tags["emotion"] = tag  # pyright: ignore[reportIndexIssue]
                clips.append(one)
    return clips


def test_obedient_model_moves_as_people() -> None:
    found = compare_expression(people(), people(seed=1))
    assert isinstance(found, Expression)
    assert found.moved_right == 1
    assert found.obeyed == {"angry": True, "happy": True, "sad": True}
    assert expression_values(found)["tags_obeyed"] == 1
    assert all(distance < 0.3 for distance in found.distances.values())
    assert all(counts[name] == 12 for name, counts in found.confusion.items())


def test_shuffled_emotions_are_confused() -> None:
    swapped = {"angry": "sad", "sad": "angry"}
    found = compare_expression(people(), people(swapped, seed=1))
    assert isinstance(found, Expression)
    assert found.confusion["sad"]["angry"] == 12
    assert found.confusion["happy"]["happy"] == 12
    assert found.moved_right is not None
    assert found.moved_right < 0.5
    assert found.obeyed == {"angry": False, "happy": True, "sad": False}
    assert expression_values(found)["tags_obeyed"] == pytest.approx(1 / 3)
    assert found.distances["angry"] > 1 > found.distances["happy"]


def test_flat_model_moves_nothing() -> None:
    random = np.random.default_rng(3)
    flat = [judged("neutral", "ann", 12.0, random.normal(0, 0.3, 3)) for _ in range(24)]
    for place, one in enumerate(flat):
        one.clip.tags["emotion"] = list(MOVES)[place % 4]  # pyright: ignore[reportIndexIssue]
    found = compare_expression(people(), flat)
    assert isinstance(found, Expression)
    assert all(counts["neutral"] == 6 for counts in found.confusion.values())


def test_speakers_own_pitch_does_not_count() -> None:
    only_ben = [one for one in people(seed=2) if one.clip.speaker == "ben"]
    found = compare_expression([one for one in people() if one.clip.speaker == "ann"], only_ben)
    assert isinstance(found, Expression)
    assert found.moved_right == 1


def test_missing_neutral_is_said() -> None:
    loud = [one for one in people() if one.clip.tags["emotion"] != "neutral"]
    assert "no clip tagged neutral" in str(compare_expression(people(), loud))


def test_only_neutral_is_said() -> None:
    calm = [one for one in people() if one.clip.tags["emotion"] == "neutral"]
    assert "no other emotion" in str(compare_expression(people(), calm))


@pytest.mark.parametrize("name", ["f0_mean_st"])
def test_measure_that_one_side_lacks_is_left_out(name: str) -> None:
    lacking = [
        JudgedClip(one.clip, {k: v for k, v in one.values.items() if k != name}, {})
        for one in people()
    ]
    found = compare_expression(people(), lacking)
    assert isinstance(found, Expression)
    assert name not in found.measures


def test_clip_without_pitch_counts_in_the_rest() -> None:
    hoarse = [
        JudgedClip(one.clip, {k: v for k, v in one.values.items() if k != "f0_mean_st"}, {})
        if one.clip.tags["emotion"] == "sad"
        else one
        for one in people(seed=1)
    ]
    found = compare_expression(people(), hoarse)
    assert isinstance(found, Expression)
    assert found.model["sad"].num_clips == 12
    assert found.model["sad"].deltas.keys() == {"energy_mean_db", "letters_per_sec"}
    assert found.confusion["sad"]["sad"] == 12
