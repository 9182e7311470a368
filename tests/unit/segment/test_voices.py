"""Speakers are told apart by embeddings; how many there are is said with how sure that is."""

import numpy as np
import pytest

from csm_ft.errors import ConfigError
from csm_ft.segment.speech import Stretch
from csm_ft.segment.voices import label_speakers

SIZE = 32


def speech(
    speakers: str, spread: float = 0.05, sec: float = 2.0
) -> tuple[list[Stretch], dict[float, np.ndarray]]:
    """Return a stretch and an embedding for each letter, near the axis of that letter."""
    rng = np.random.default_rng(0)
    stretches, voices = [], {}
    for place, letter in enumerate(speakers):
        start = place * 10.0
        vector = rng.normal(0, spread, SIZE)
        vector[ord(letter) - ord("a")] += 1
        stretches.append(Stretch(start, start + sec))
        voices[start] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return stretches, voices


def labels(recordings: list[list[Stretch]]) -> list[list[str]]:
    return [[one.speaker.removeprefix("speaker-") for one in own] for own in recordings]


def test_a_number_of_speakers_is_found_over_all_recordings() -> None:
    one, other = speech("aabab"), speech("bbcbbb")
    found = label_speakers([one[0], other[0]], [one[1], other[1]], 3)
    assert labels(found.recordings) == [list("22121"), list("113111")]


@pytest.mark.parametrize(
    ("speakers", "spread", "count", "words"),
    [
        ("abcabcabcabc", 0.05, 3, "3 speakers, rather sure"),
        ("abababababab", 0.19, 2, "2 speakers, not sure"),
        ("aaaaaaaaaaaaaaa", 0.1, 1, "1 speaker: voices are no clusters"),
    ],
)
def test_an_estimate_says_how_sure_it_is(
    speakers: str, spread: float, count: int, words: str
) -> None:
    stretches, voices = speech(speakers, spread)
    found = label_speakers([stretches], [voices], 0)
    assert len(set(labels(found.recordings)[0])) == count
    assert found.note.startswith(words)


def test_alike_voices_are_told() -> None:
    stretches, voices = speech("a" * 12, 0.2)
    assert "that is low" in label_speakers([stretches], [voices], 2).note


def test_short_speech_is_assigned_and_does_not_decide() -> None:
    stretches, voices = speech("aaabbbb")
    short = Stretch(21.0, 21.8)  # half way, by its embedding rather b
    voices[21.0] = ((voices[20.0] + 2 * voices[30.0]) / 3).astype(np.float32)
    tiny = Stretch(29.0, 29.2)  # without an embedding: like the nearest in time
    found = label_speakers([[*stretches[:3], short, tiny, *stretches[3:]]], [voices], 2)
    assert labels(found.recordings) == [list("222111111")]


def test_one_speaker_needs_no_embeddings() -> None:
    stretches, _ = speech("aab")
    assert labels(label_speakers([stretches], [{}], 1).recordings) == [["1", "1", "1"]]


@pytest.mark.parametrize(("count", "least"), [(4, 4), (0, 8)])
def test_too_little_speech_is_refused(count: int, least: int) -> None:
    stretches, voices = speech("abc")
    with pytest.raises(ConfigError, match=f"3 of the stretches .* {least} are needed"):
        label_speakers([stretches], [voices], count)
