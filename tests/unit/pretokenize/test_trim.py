"""--trim_silence: narrower spans, the same loudness, nothing encoded twice."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.data import audio
from tests.helpers.pretokenizing import FakeEncoder, Json, Work

RATE_HZ = 16000


def say(path: Path, before_sec: float, speech_sec: float, after_sec: float, seed: int = 0) -> Json:
    """Write noise as loud as speech between stretches of a quiet room."""
    random = np.random.default_rng(seed)
    speech = random.uniform(-0.3, 0.3, round(speech_sec * RATE_HZ))
    speech[len(speech) // 2 :][:1000] = 0  # a stop
    wave = np.concatenate([np.zeros(round(before_sec * RATE_HZ)), speech])
    wave = np.concatenate([wave, np.zeros(round(after_sec * RATE_HZ))])
    wave += random.standard_normal(len(wave)) * 1e-4
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE_HZ)
    return {"path": str(path), "text": f"This is sentence {seed}."}


def test_silence_is_cut_with_a_margin(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [say(work.folder / f"{n}.wav", 1.0, 1.5, 0.5 + n, seed=n) for n in range(2)]
    rows += [say(work.folder / "tight.wav", 0.1, 1.5, 0.0, seed=2)]
    assert work.run(rows, rows[:1], "--trim_silence") == 0
    assert "0.1 of 0.2 minutes are silence at the ends of clips" in capsys.readouterr().out
    split = work.store().splits["train"]
    clips = [split.clip(i) for i in range(3)]
    assert [clip.start_sec for clip in clips] == pytest.approx([0.85, 0.85, 0.0], abs=0.021)
    assert [clip.end_sec for clip in clips] == pytest.approx([2.65, 2.65, 1.6], abs=0.021)
    assert [clip.measures.leading_silence_sec for clip in clips] == pytest.approx(
        [0.15, 0.15, 0.1], abs=0.03
    )
    wave = audio.load(Path(rows[0]["path"]), sample_rate_hz=RATE_HZ)
    start, end = (round(sec * RATE_HZ) for sec in (clips[0].start_sec, clips[0].end_sec))
    (expected,) = FakeEncoder().encode_audio([wave[start:end]])
    np.testing.assert_array_equal(split.array("sums", 0), expected["sums"])


def test_trimming_is_part_of_the_clip_id(work: Work, encoder: FakeEncoder) -> None:
    rows = [say(work.folder / "a.wav", 1.0, 1.5, 0.5), say(work.folder / "b.wav", 0.0, 1.5, 0.0, 1)]
    assert work.run(rows, rows[:1]) == 0
    before = work.store().splits["train"].ids
    assert work.run(rows, rows[:1], "--trim_silence") == 0
    after = work.store().splits["train"].ids
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    encoded = encoder.num_encoded
    assert work.run(rows, rows[:1], "--trim_silence") == 0
    assert encoder.num_encoded == encoded


def test_spans_are_trimmed_within_themselves(work: Work, encoder: FakeEncoder) -> None:
    say(work.folder / "a.wav", 2.0, 1.0, 2.0)
    row = {"path": "a.wav", "text": "A span.", "start": 1.0, "end": 4.5}
    assert work.run([row], [row], "--trim_silence") == 0
    clip = work.store().splits["train"].clip(0)
    assert (clip.start_sec, clip.end_sec) == pytest.approx((1.85, 3.15), abs=0.021)


def test_too_little_speech_is_rejected(work: Work, encoder: FakeEncoder) -> None:
    rows = [
        say(work.folder / f"{n}.wav", 0.5, length, 0.5, seed=n)
        for n, length in enumerate((1.0, 0.05))
    ]
    assert work.run(rows, rows[:1], "--trim_silence", "--max_rejected", "60%") == 0
    (rejected,) = work.rejected()
    assert "after --trim_silence: 0.3" in rejected["reason"]
    assert "shorter than --min_sec 0.4" in rejected["reason"]
