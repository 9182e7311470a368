"""--level_dbfs: one level for all clips, which the token file keeps."""

import numpy as np
import pytest
import soundfile

from csm_ft.data.describe import describe_store
from csm_ft.data.measures import measure
from csm_ft.pretokenize.level import set_level
from tests.helpers.pretokenizing import FakeEncoder, Json, Work

RATE_HZ = 16000


def tone(level_dbfs: float, pause_sec: float = 0.5) -> np.ndarray:
    """Return a second of sine at a level, and a pause in a quiet room."""
    times = np.arange(RATE_HZ) / RATE_HZ
    sine = np.sqrt(2) * 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * 200 * times)
    wave = np.concatenate([sine, np.zeros(round(pause_sec * RATE_HZ))])
    wave += np.random.default_rng(0).standard_normal(len(wave)) * 1e-5
    return wave.astype(np.float32)


def levelled(wave: np.ndarray, level_dbfs: float) -> tuple[np.ndarray, float, float]:
    before = measure(wave, RATE_HZ, clipped_share=0.0, mix_loss_db=np.nan)
    after, measures = set_level(wave, RATE_HZ, before, level_dbfs)
    fresh = measure(after, RATE_HZ, clipped_share=0.0, mix_loss_db=np.nan)
    assert measures.level_dbfs == pytest.approx(fresh.level_dbfs, abs=0.01)
    assert measures.peak == pytest.approx(fresh.peak, abs=1e-4)
    sounding = after[..., :RATE_HZ].astype(float)
    return after, 10 * np.log10(np.square(sounding).mean()), measures.peak


@pytest.mark.parametrize("before_dbfs", [-40.0, -23.0, -10.0])
def test_what_sounds_comes_to_the_level(before_dbfs: float) -> None:
    for wave in (tone(before_dbfs), np.stack([tone(before_dbfs)] * 2)):
        after, level_dbfs, _ = levelled(wave, -23.0)
        assert level_dbfs == pytest.approx(-23, abs=0.05)
        assert after.dtype == np.float32


def test_peaks_stay_below_full_scale_and_silence_stays() -> None:
    wave = tone(-30.0)
    wave[100] = 0.5  # a click
    _, level_dbfs, peak = levelled(wave, -3.0)
    assert peak == pytest.approx(0.99, abs=1e-3)
    assert level_dbfs < -20
    silence = np.zeros(RATE_HZ, np.float32)
    measures = measure(silence, RATE_HZ, clipped_share=0.0, mix_loss_db=np.nan)
    assert set_level(silence, RATE_HZ, measures, -23.0)[0] is silence


def rows_of(work: Work, **tags: str) -> list[Json]:
    rows = []
    for number, level in enumerate((-40.0, -15.0)):
        soundfile.write(work.folder / f"{number}.wav", tone(level, 0.1 + number / 10), RATE_HZ)
        rows.append({"path": f"{number}.wav", "text": f"Sentence {number}.", **tags})
    return rows


def test_level_is_kept_and_part_of_the_clip_id(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(work)
    assert work.run(rows, rows[:1]) == 0
    plain = work.store()
    assert "level_dbfs" not in plain.info.facts
    assert work.run(rows, rows[:1], "--level_dbfs", "-23") == 0
    store = work.store()
    split = store.splits["train"]
    assert store.info.facts["level_dbfs"] == -23.0
    assert "each clip was brought to -23 dBFS" in describe_store(store, [])
    assert set(split.ids).isdisjoint(plain.splits["train"].ids)
    levels = [split.clip(i).measures.level_dbfs for i in range(2)]
    assert levels == pytest.approx([-23.4, -23.8], abs=0.3)  # pauses included
    encoded = encoder.num_encoded
    assert work.run(rows, rows[:1], "--level_dbfs", "-23") == 0
    assert encoder.num_encoded == encoded
    assert "rows have emotions" not in capsys.readouterr().out


def test_emotions_lose_their_loudness_with_a_warning(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(work, emotion="angry")
    assert work.run(rows, rows[:1], "--level_dbfs", "-23") == 0
    assert "how loud they are said is taken away" in capsys.readouterr().out
