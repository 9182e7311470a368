"""Augmented training sound: what changes, by how much, and what it depends on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import pretokenize
from csm_ft.data.token_file import open_store
from csm_ft.families.base import Draw
from csm_ft.families.moonshine.augment import augment, change_speed, mask_band, mask_time
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.data import MoonshineBatch
from csm_ft.families.moonshine.family import MoonshineFamily
from csm_ft.families.moonshine.size import MIN_SAMPLES
from tests.conftest import write_metadata

RATE_HZ = 16000
CONFIG = MoonshineConfig(speed_perturbation=0.1, time_mask_sec=0.2, band_mask_hz=1000)


def tone(hz: float, sec: float = 2.0) -> np.ndarray:
    times = np.arange(round(sec * RATE_HZ)) / RATE_HZ
    return (8000 * np.sin(2 * np.pi * hz * times)).astype(np.int16)


def loudest_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE_HZ / len(samples))


def test_speed_moves_length_and_pitch_together() -> None:
    lengths = []
    for seed in range(20):
        changed = change_speed(tone(1000), 0.1, np.random.default_rng(seed))
        speed = 2 * RATE_HZ / len(changed)
        assert 0.899 <= speed <= 1.101
        assert loudest_hz(changed) == pytest.approx(1000 * speed, abs=2)
        lengths.append(len(changed))
    assert len(set(lengths)) > 15


def test_clip_of_one_frame_keeps_its_speed_when_it_would_lose_it() -> None:
    short = tone(1000)[:MIN_SAMPLES]
    lengths = [len(change_speed(short, 0.5, np.random.default_rng(seed))) for seed in range(20)]
    assert min(lengths) == MIN_SAMPLES
    assert max(lengths) > MIN_SAMPLES


def test_each_second_has_one_silence_of_at_most_its_length() -> None:
    loud = np.full(round(2.5 * RATE_HZ), 100, np.int16)
    for seed in range(20):
        masked = mask_time(loud, 0.3, np.random.default_rng(seed))
        assert set(np.unique(masked)) <= {0, 100}
        for second in (masked[:RATE_HZ], masked[RATE_HZ : 2 * RATE_HZ], masked[2 * RATE_HZ :]):
            changes = np.flatnonzero(np.diff(np.concatenate([[100], second, [100]])))
            assert len(changes) in (0, 2)
            assert (second == 0).sum() <= 0.3 * RATE_HZ + 1
    assert (loud == 100).all()


def test_band_is_gone_and_the_rest_is_there() -> None:
    click = np.zeros(RATE_HZ, np.int16)
    click[100] = 30000  # has every frequency, one bin for each Hz
    for seed in range(10):
        masked = mask_band(click, 2000, np.random.default_rng(seed))
        spectrum = np.abs(np.fft.rfft(masked))
        gone = np.flatnonzero(spectrum < 1000)
        assert 0 < len(gone) <= 2001
        assert gone[-1] - gone[0] == len(gone) - 1
        rest = np.delete(spectrum, gone)
        np.testing.assert_allclose(rest, 30000, atol=1000)


def test_key_decides() -> None:
    clip = tone(500)
    np.testing.assert_array_equal(augment(clip, CONFIG, "a"), augment(clip, CONFIG, "a"))
    assert len(augment(clip, CONFIG, "a")) != len(augment(clip, CONFIG, "b"))


def test_batch_does_not_matter_and_validation_hears_the_clips(tmp_path: Path) -> None:
    output = tmp_path / "asr.hdf5"
    argv = ["--family", "moonshine", "--fit_tokenizer", "300", "--output", str(output)]
    for split, count in (("train", 4), ("val", 2)):
        argv += [f"--{split}_data", str(write_metadata(tmp_path / f"{split}.json", split, count))]
    assert pretokenize.main(argv) == 0
    family = MoonshineFamily()
    examples = family.arrange(open_store(output).splits["train"], CONFIG, evaluate=False)

    def collate(indices: Sequence[int], draw: Draw | None) -> MoonshineBatch:
        return family.collate(examples, indices, CONFIG, draw=draw)

    def sound(batch: MoonshineBatch, place: int) -> torch.Tensor:
        start = int(batch.clip_starts[place])
        return batch.samples[start : start + int(batch.clip_lengths[place])]

    draw = Draw(seed=1, epoch=2)
    together, alone = collate([3, 1, 2], draw), collate([1], draw)
    assert torch.equal(sound(together, 1), sound(alone, 0))
    assert not torch.equal(sound(alone, 0), sound(collate([1], Draw(seed=1, epoch=3)), 0))
    plain = torch.from_numpy(examples.split.array("samples", 1).astype(np.float32) / 32768)
    assert torch.equal(sound(collate([1], None), 0), plain)
