"""Recordings are heard in blocks of flat size, and blocks lose nothing."""

import itertools
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from csm_ft.errors import AudioError
from csm_ft.segment import hear as module
from csm_ft.segment.hear import Block, Recording, end_in_silence, hear, into_chunks
from csm_ft.segment.speech import Span, Stretch, join_touching
from tests.helpers.segmenting import ToneRecogniser, find_tones, write_tones

TONES = [
    (300 + 50 * place, 0.5 + place % 3 * 0.5, (0.2, 1.1, 2.5)[place % 3]) for place in range(12)
]


def recording(path: Path) -> Recording:
    import soundfile

    return Recording(path, path.stem, soundfile.info(path).duration)


def heard(blocks: list[Block]) -> list[Stretch]:
    return list(join_touching([one for block in blocks for one in block.stretches]))


def words(stretches: list[Stretch]) -> list[str]:
    return [word.text for stretch in stretches for word in stretch.words]


@pytest.mark.parametrize("block_sec", [3.0, 4.7, 8.0])
def test_blocks_lose_no_word_and_hear_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_sec: float
) -> None:
    own = recording(write_tones(tmp_path / "a.wav", TONES))
    whole = heard(list(hear(own, ToneRecogniser(), None, find_tones)))
    assert words(whole) == [
        f" {hz}{'.' * (place == round(sec / 0.5) - 1)}"
        for hz, sec, _ in TONES
        for place in range(round(sec / 0.5))
    ]
    monkeypatch.setattr(module, "BLOCK_SEC", block_sec)
    blocks = list(hear(own, ToneRecogniser(), None, find_tones))
    assert len(blocks) > 2
    assert max(block.end_sec - block.start_sec for block in blocks) <= block_sec
    assert words(heard(blocks)) == words(whole)
    for one, other in zip(heard(blocks), whole, strict=True):
        assert (one.start_sec, one.end_sec) == pytest.approx(
            (other.start_sec, other.end_sec), abs=0.02
        )


def test_speech_without_silence_is_one_stretch_over_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_SEC", 3.0)
    own = recording(write_tones(tmp_path / "a.wav", [(300, 8.0, 0.5), (400, 0.5, 0.5)]))
    found = heard(list(hear(own, ToneRecogniser(), None, find_tones)))
    assert [(one.start_sec, one.end_sec) for one in found] == [
        pytest.approx((0.5, 8.5), abs=0.02),
        pytest.approx((9.0, 9.5), abs=0.02),
    ]


def test_hearing_goes_on_after_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_SEC", 4.0)
    own = recording(write_tones(tmp_path / "a.wav", TONES))
    blocks = list(hear(own, ToneRecogniser(), None, find_tones))
    assert list(hear(own, ToneRecogniser(), blocks[1], find_tones)) == blocks[2:]
    assert list(hear(own, ToneRecogniser(), blocks[-1], find_tones)) == []


def test_long_silence_is_not_heard(tmp_path: Path) -> None:
    class Measuring(ToneRecogniser):
        longest = 0

        def hear_words(self, wave):  # noqa: ANN001, ANN202
            self.longest = max(self.longest, len(wave))
            return super().hear_words(wave)

    own = recording(write_tones(tmp_path / "a.wav", [(300, 0.5, 60.0), (400, 0.5, 0.5)]))
    recogniser = Measuring()
    (block,) = hear(own, recogniser, None, find_tones)
    assert words(list(block.stretches)) == [" 300.", " 400."]
    assert block.stretches[1].start_sec == pytest.approx(61.0, abs=0.02)
    assert recogniser.longest <= 3 * 16000


def test_what_cannot_be_read_on_is_an_error(tmp_path: Path) -> None:
    path = write_tones(tmp_path / "a.wav", TONES)
    own = recording(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AudioError, match="cut off"):
        list(hear(own, ToneRecogniser(), None, find_tones))


def test_blocks_end_in_the_last_wide_silence_of_their_second_half() -> None:
    speech = [Span(0, 2), Span(4, 6), Span(6.5, 8), Span(8.2, 10)]
    assert end_in_silence(speech, 10.0) == (speech[:2], 6.25)
    later = [*speech[:3], Span(8.5, 9.0), Span(9.2, 10)]
    assert end_in_silence(later, 10.0) == (later[:3], 8.25)
    assert end_in_silence([Span(0, 3)], 10.0) == ([Span(0, 3)], 7.5)
    assert end_in_silence([Span(1, 9.9)], 10.0) == ([Span(1, 9.9)], pytest.approx(9.95))
    assert end_in_silence([Span(1, 10)], 10.0) == ([Span(1, 10)], 10.0)
    assert end_in_silence([], 10.0) == ([], 7.5)


spans = st.lists(st.tuples(st.floats(0.1, 3), st.floats(0.1, 40)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(spans)
def test_chunks_hold_each_span_once_and_fit_the_recogniser(
    lengths: list[tuple[float, float]],
) -> None:
    speech: list[Span] = []
    for silence_sec, sec in lengths:
        start = (speech[-1].end_sec if speech else 0.0) + silence_sec
        speech.append(Span(start, start + sec))
    chunks = list(into_chunks(speech, 28.0))
    assert list(itertools.chain(*chunks)) == list(range(len(speech)))
    for chunk in chunks:
        length_sec = speech[chunk[-1]].end_sec - speech[chunk[0]].start_sec
        assert length_sec <= 28.0 or len(chunk) == 1
