import hashlib
import os
import random
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_ft.data import audio, sound_file
from csm_ft.data.audio import facts, load, probe, save
from csm_ft.errors import AudioError, MachineError

RATES_HZ = [8000, 16000, 22050, 44100, 48000]
SUFFIXES = [".wav", ".flac", ".ogg", ".mp3"]


def tone(
    num_samples: int, sample_rate_hz: int, frequency_hz: float = 440.0, seed: int = 0
) -> NDArray[np.float32]:
    """A sine with a little noise, so that no two spans of it are alike."""
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    return (
        0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / sample_rate_hz)
        + 0.01 * noise
    ).astype(np.float32)


def message(path: Path, **options: Any) -> str:
    with pytest.raises(AudioError) as error:
        load(path, **{"sample_rate_hz": 24000, **options})
    assert str(error.value).startswith(f"{path}: "), "the message begins with the file"
    assert "row" not in str(error.value), "callers add what to do"
    assert "metadata" not in str(error.value)
    return str(error.value)


# What is read


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_every_format_rate_and_channel_count(
    tmp_path: Path, suffix: str, rate_hz: int, num_channels: int
) -> None:
    path = tmp_path / f"a{suffix}"
    wave = tone(rate_hz, rate_hz)
    soundfile.write(
        path, np.stack([wave, 0.5 * wave], axis=1) if num_channels == 2 else wave, rate_hz
    )
    info = probe(path)
    assert (info.sample_rate_hz, info.num_samples, info.num_channels) == (
        rate_hz,
        rate_hz,
        num_channels,
    )
    assert info.duration_sec == 1.0
    loaded = load(path, sample_rate_hz=24000)
    assert loaded.dtype == np.float32
    assert loaded.shape == (24000,)
    spectrum = np.abs(np.fft.rfft(loaded[2000:-2000]))
    peak_hz = np.argmax(spectrum) * 24000 / 20000
    assert peak_hz == pytest.approx(440, abs=2), "neither the rate nor the order of samples is lost"
    assert np.abs(loaded[4000:-4000]).max() == pytest.approx(
        0.3 if num_channels == 1 else 0.225, abs=0.05
    )


@pytest.mark.parametrize(
    ("suffix", "rate_hz"),
    [
        (".wav", 22050),
        (".flac", 44100),
        (".ogg", 22050),
        (".ogg", 8000),
        (".mp3", 22050),
        (".opus", 16000),
    ],
)
def test_span_equals_slice_of_whole_file(
    tmp_path: Path, suffix: str, rate_hz: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """At rates where a bare seek of libsndfile is wrong.

    Vorbis in its last page, mp3 and Opus for some hundred samples.
    """
    path, num_samples = tmp_path / f"a{suffix}", 12 * rate_hz
    with soundfile.SoundFile(
        path,
        "w",
        rate_hz,
        1,
        format={".opus": "OGG"}.get(suffix),
        subtype={".opus": "OPUS"}.get(suffix),
    ) as file:
        for first in range(0, num_samples, rate_hz):
            file.write(tone(num_samples, rate_hz)[first : first + rate_hz])
    whole = load(path, sample_rate_hz=rate_hz)
    assert len(whole) == num_samples
    starts_sec = [*np.random.default_rng(0).uniform(0, 11, 25), 5.5, 11.0, 11.9]
    for start_sec, end_sec in [
        *((float(start), float(start) + 0.1) for start in starts_sec),
        (None, 1.0),
        (9.0, None),
        (0.0, 12.0),
    ]:
        start = round((start_sec or 0.0) * rate_hz)
        end = num_samples if end_sec is None else round(end_sec * rate_hz)
        span = load(path, sample_rate_hz=rate_hz, start_sec=start_sec, end_sec=end_sec)
        np.testing.assert_allclose(span, whole[start:end], atol=2e-5)
    assert capfd.readouterr().err == "", "mpg123 has nothing to say about it"


@settings(deadline=None, max_examples=50)
@given(
    start=st.floats(0, 1.999), length=st.floats(0.001, 2.0), rate_hz=st.sampled_from([8000, 24000])
)
def test_any_span_is_slice_or_error(
    tmp_path_factory: pytest.TempPathFactory, start: float, length: float, rate_hz: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "spans.wav"
    wave = (np.arange(16000) % 3001 / 3001).astype(np.float32)
    if not path.exists():
        soundfile.write(path, wave, 8000, subtype="FLOAT")
    try:
        span = load(path, sample_rate_hz=rate_hz, start_sec=start, end_sec=start + length)
    except AudioError:
        assert (
            start + length > 2.0 + audio.TOLERANCE_SEC
            or round((start + length) * 8000) <= round(start * 8000)
            or start * 8000 > 15999
        )
        return
    expected = wave[round(start * 8000) : round((start + length) * 8000)]
    assert len(span) == pytest.approx(len(expected) * rate_hz / 8000, abs=1)
    if rate_hz == 8000:
        np.testing.assert_array_equal(span, expected)


def test_mono_channels_of_stereo_and_mono(tmp_path: Path) -> None:
    path, mono = tmp_path / "a.wav", tmp_path / "m.wav"
    left, right = tone(8000, 8000, 200), tone(8000, 8000, 900, seed=1)
    soundfile.write(path, np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    soundfile.write(mono, left, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(load(path, sample_rate_hz=8000, channel="left"), left)
    np.testing.assert_array_equal(load(path, sample_rate_hz=8000, channel="right"), right)
    np.testing.assert_allclose(load(path, sample_rate_hz=8000), (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(load(mono, sample_rate_hz=8000, channel="left"), left)
    assert "right of a mono file" in message(mono, channel="right")


# Both sides of a stereo file


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate_hz", [16000, 22050])
def test_both_channels_match_left_and_right(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"a{suffix}"
    sides = [tone(rate_hz, rate_hz, 200), tone(rate_hz, rate_hz, 900, seed=1)]
    soundfile.write(path, np.stack(sides, axis=1), rate_hz)
    for span in ({}, {"start_sec": 0.25, "end_sec": 0.5}):
        both = load(path, sample_rate_hz=16000, channel="both", **span)
        assert both.dtype == np.float32
        assert both.flags.c_contiguous
        left, right = (
            load(path, sample_rate_hz=16000, channel=side, **span) for side in ("left", "right")
        )
        np.testing.assert_array_equal(both, np.stack([left, right]))


@pytest.mark.parametrize(("num_channels", "words"), [(1, "1 channel,"), (3, "3 channels,")])
def test_both_needs_exactly_two_channels(tmp_path: Path, num_channels: int, words: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((800, num_channels)), 8000)
    assert f"has {words} not the two of a stereo file" in message(path, channel="both")


@pytest.mark.parametrize(("value", "words"), [(np.nan, "1 samples are NaN"), (30.0, "go up to 30")])
def test_checks_cover_both_channels(tmp_path: Path, value: float, words: str) -> None:
    sound = np.zeros((800, 2), np.float32)
    sound[7, 1] = value
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    assert words in message(tmp_path / "a.wav", channel="both")
    assert load(tmp_path / "a.wav", sample_rate_hz=8000, channel="left").shape == (800,)


def test_both_channels_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(9999, 8000), tone(9999, 8000, 900)], axis=1), 8000)
    in_one = load(path, sample_rate_hz=8000, channel="both")
    monkeypatch.setattr(sound_file, "BLOCK_FRAMES", 777)
    np.testing.assert_array_equal(load(path, sample_rate_hz=8000, channel="both"), in_one)


def test_both_channels_read_only_span(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    sparse_wav(path, num_frames=3 * 3600 * 48000, sample_rate_hz=48000, num_channels=2)
    tracemalloc.start()
    wave = load(path, sample_rate_hz=24000, start_sec=9e3, end_sec=9e3 + 5, channel="both")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert wave.shape == (2, 5 * 24000)
    assert peak_bytes < 20e6


@pytest.mark.parametrize("source_hz", RATES_HZ)
def test_resampling_keeps_time_and_level(tmp_path: Path, source_hz: int) -> None:
    """Compare with the sine itself, drawn at the new rate."""
    path = tmp_path / "a.wav"
    soundfile.write(
        path,
        0.5 * np.sin(2 * np.pi * 1000 * np.arange(source_hz) / source_hz),
        source_hz,
        subtype="FLOAT",
    )
    wave = load(path, sample_rate_hz=24000)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(24000) / 24000)
    np.testing.assert_allclose(wave[500:-500], expected[500:-500], atol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Reading an mp3 in pieces gives other samples with soundfile's own read."""
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.stack([tone(99_999, 22050)] * 2, axis=1), 22050)
    in_one = load(path, sample_rate_hz=24000)
    monkeypatch.setattr(sound_file, "BLOCK_FRAMES", 777)
    np.testing.assert_array_equal(load(path, sample_rate_hz=24000), in_one)
    np.testing.assert_allclose(
        in_one, soxr.resample(soundfile.read(path)[0].mean(axis=1), 22050, 24000), atol=1e-5
    )


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def sparse_wav(path: Path, *, num_frames: int, sample_rate_hz: int, num_channels: int) -> None:
    """A long silent file that takes no room on the disk."""
    width = 2 * num_channels
    data = num_frames * width
    layout = struct.pack(
        "<HHIIHH", 1, num_channels, sample_rate_hz, sample_rate_hz * width, width, 16
    )
    path.write_bytes(
        b"RIFF"
        + struct.pack("<I", 36 + data)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + layout
        + b"data"
        + struct.pack("<I", data)
    )
    os.truncate(path, 44 + data)


def test_span_of_long_file_reads_only_span(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    sparse_wav(path, num_frames=3 * 3600 * 48000, sample_rate_hz=48000, num_channels=2)
    assert probe(path).duration_sec == 3 * 3600
    tracemalloc.start()
    before, started = bytes_read(), time.process_time()
    wave = load(path, sample_rate_hz=24000, start_sec=10_000.0, end_sec=10_005.0)
    read, peak_bytes = bytes_read() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wave) == 5 * 24000
    assert read < 5 * 48000 * 4 + 100_000
    assert peak_bytes < 20e6, "the file is 2.07e9 bytes"
    assert time.process_time() - started < 5


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_span_of_compressed_file_reads_nearby_only(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save(path, tone(120 * 16000, 16000, seed=2), 16000)
    before = bytes_read()
    load(path, sample_rate_hz=16000, start_sec=90.0, end_sec=91.0)
    assert bytes_read() - before < 0.5 * path.stat().st_size


# What is refused


def test_files_that_are_no_sound_are_refused(tmp_path: Path) -> None:
    assert message(tmp_path / "a.wav") == f"{tmp_path / 'a.wav'}: no such file"
    assert "write / between folders" in message(tmp_path / "wavs\\a.wav")
    assert "is a folder" in message(tmp_path)
    assert "File name too long" in message(tmp_path / ("x" * 300))
    for name, content, expected in [
        ("e.wav", b"", "is empty (0 bytes)"),
        (
            "t.wav",
            b"this is no sound at all" * 10,
            "cannot be decoded: Format not recognised; convert it to wav",
        ),
        ("t.raw", bytes(1000), "cannot be decoded"),
        ("t.mp3", b"\xff\xfb", "cannot be decoded"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert expected in message(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "is no plain file" in message(tmp_path / "pipe.wav"), "opening a pipe would hang"
    soundfile.write(tmp_path / "z.wav", np.zeros(0), 8000)
    assert "has no samples" in message(tmp_path / "z.wav")
    with pytest.raises(AudioError, match="has no samples"):
        probe(tmp_path / "z.wav")


def test_content_decides_format(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(8000, 8000), 8000)
    for name in ("a.raw", "a.wav", "a", "a.opus"):
        (tmp_path / name).write_bytes((tmp_path / "a.flac").read_bytes())
        assert probe(tmp_path / name).num_samples == 8000


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".aiff", ".au"])
def test_cut_off_file_is_refused(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    soundfile.write(whole, tone(4 * 24000, 24000), 24000)
    content = whole.read_bytes()
    for share in (0.9, 0.5, 0.2):
        cut.write_bytes(content[: int(share * len(content))])
        assert "cut off" in message(cut) or suffix == ".flac"
        cut.unlink()


def test_cut_off_flac_reads_before_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(4 * 24000, 24000), 24000)
    whole = load(path, sample_rate_hz=24000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_array_equal(load(path, sample_rate_hz=24000, end_sec=1.0), whole[:24000])


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_piped_wav_without_length_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(8000, 8000), 8000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    assert probe(path).num_samples == 8000


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.1, np.nan], "100 samples are NaN"),
        ([np.inf, 0], "NaN or infinite"),
        ([3e4, -2e4], "go up to 3e+04"),
    ],
)
def test_bad_float_samples_are_refused(tmp_path: Path, samples: list[float], expected: str) -> None:
    soundfile.write(
        tmp_path / "a.wav", np.array(samples * 100, dtype=np.float32), 8000, subtype="FLOAT"
    )
    assert expected in message(tmp_path / "a.wav")


def test_spans_outside_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(8000, 8000), 8000)
    assert "end_sec 1.02 is past the file's end at 1.000 s" in message(path, end_sec=1.02)
    assert "start_sec 1.0 is not before the file's end" in message(path, start_sec=1.0)
    assert "end_sec 0.5 is not after start_sec 0.5" in message(path, start_sec=0.5, end_sec=0.5)
    assert "start_sec -0.1 is not 0 or more" in message(path, start_sec=-0.1)
    assert "start_sec nan" in message(path, start_sec=float("nan"))
    assert "end_sec inf" in message(path, end_sec=float("inf"))
    assert "less than one sample at 8000 Hz" in message(path, start_sec=0.5, end_sec=0.50001)
    assert len(load(path, sample_rate_hz=8000, end_sec=1.009)) == 8000, "a rounded end is forgiven"


def mp3_without_length(path: Path, num_copies: int = 1) -> int:
    """Write an mp3 of changing bit rate whose first frame, with the Xing header in it, is cut away.

    Return its true number of samples.
    """
    rate_hz = 44100
    bursts = (np.arange(4 * rate_hz) % rate_hz > rate_hz // 2) * tone(
        4 * rate_hz, rate_hz
    ) * 2 + 0.001 * tone(4 * rate_hz, rate_hz)
    with soundfile.SoundFile(
        path, "w", rate_hz, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(bursts)
    content = path.read_bytes()
    assert b"Xing" in content[:200]
    second = content.index(b"\xff\xfb", 4)
    path.write_bytes(content[second:] * num_copies)
    return 4 * rate_hz


def test_mp3_without_length_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    num_samples = mp3_without_length(path)
    assert probe(path).num_samples < 0.9 * num_samples, (
        "else this file is no test: libsndfile takes its guess for the length"
    )
    assert "convert it to wav or flac" in message(path)
    assert "an mp3 without a length header looks too short" in message(path, end_sec=3.9)
    early = load(path, sample_rate_hz=24000, end_sec=0.5)
    assert len(early) == 12000


def test_two_mp3_files_glued_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(44100, 44100), 44100)
    path.write_bytes(path.read_bytes() * 2)
    assert probe(path).num_samples == 44100
    assert "files glued together" in message(path)


def test_mp3_tags_are_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(44100, 44100), 44100)
    wave = load(path, sample_rate_hz=44100)
    path.write_bytes(
        b"ID3\x04\x00\x00\x00\x00\x0f\x00" + bytes(1920) + path.read_bytes() + b"TAG" + bytes(125)
    )
    np.testing.assert_array_equal(load(path, sample_rate_hz=44100), wave)
    assert len(wave) == 44100, "neither the encoder's delay nor its padding counts"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_raises_only_audio_error(tmp_path: Path, suffix: str) -> None:
    source, path = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    soundfile.write(source, tone(8000, 16000), 16000)
    content, dice = source.read_bytes(), random.Random(suffix)
    num_errors = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(dice.choice([1, 3, 10])):
            damaged[dice.randrange(dice.choice([60, len(damaged)]))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            assert np.isfinite(load(path, sample_rate_hz=16000)).all()
        except AudioError:
            num_errors += 1
    assert num_errors, "nothing was damaged"


# What is written and measured


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_wave_loads_again(tmp_path: Path, suffix: str) -> None:
    path, wave = tmp_path / f"a{suffix}", tone(24000, 24000)
    save(path, wave, 24000)
    loaded = load(path, sample_rate_hz=24000)
    assert loaded.shape == wave.shape
    loss = np.sqrt(np.mean((loaded - wave) ** 2))
    assert loss < (1 / 32768 if suffix in (".wav", ".flac") else 0.02)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "no draft is left"


def test_save_clips_and_writes_16_bit(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.array([-3.0, -1.0, 0.0, 1.0, 3.0]), 8000)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    values, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert list(values) == [-32768, -32768, 0, 32767, 32767]


def test_long_vorbis_file_is_written(tmp_path: Path) -> None:
    """One write of this many samples ends libsndfile 1.2.2 with a segmentation fault."""
    save(tmp_path / "a.ogg", np.zeros(300 * 16000, dtype=np.float32), 16000)
    assert probe(tmp_path / "a.ogg").num_samples == 300 * 16000


def test_failed_save_leaves_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    save(path, tone(800, 8000), 8000)
    before = path.read_bytes()
    for wave, name, rate_hz in [
        (np.array([0.0, np.nan]), "a.wav", 8000),
        (np.zeros((3, 2)), "a.wav", 8000),
        (np.zeros(9), "a.xyz", 8000),
        (np.zeros(9), "a.mp3", 12345),
    ]:
        with pytest.raises(AudioError, match=name):
            save(tmp_path / name, wave, rate_hz)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MachineError, match="No space"):
        save(path, tone(900, 8000), 8000)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_sides_are_saved(tmp_path: Path, suffix: str) -> None:
    wave = np.stack([tone(16000, 16000), tone(16000, 16000, 880.0)])
    save(tmp_path / f"a{suffix}", wave, 16000)
    read = load(tmp_path / f"a{suffix}", sample_rate_hz=16000, channel="both")
    assert read.shape == wave.shape
    assert (np.abs(read - wave).mean(axis=1) < 0.05).all()


def test_digest_depends_on_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 2_999_999 + b"y")
    assert (
        audio.digest(tmp_path / "a")
        == hashlib.blake2b(b"x" * 3_000_000, digest_size=20).hexdigest()
    )
    assert audio.digest(tmp_path / "a") != audio.digest(tmp_path / "b")
    with pytest.raises(AudioError, match="no such file"):
        audio.digest(tmp_path / "c")


def test_facts_of_a_sine_and_silence() -> None:
    sine = np.sin(2 * np.pi * 100 * np.arange(24000) / 24000).astype(np.float32)
    found = facts(np.concatenate([0.5 * sine, np.zeros(24000, dtype=np.float32)]), 24000)
    assert found.duration_sec == 2.0
    assert found.peak == pytest.approx(0.5)
    assert found.rms_dbfs == pytest.approx(20 * np.log10(0.5 / 2), abs=1e-3)
    assert found.silence_share == 0.5
    assert found.clipped_share == 0.0


@pytest.mark.parametrize(("level_dbfs", "is_silent"), [(-46, True), (-44, False)])
def test_silence_is_below_45_dbfs(level_dbfs: float, is_silent: bool) -> None:
    hiss = np.sign(np.random.default_rng(0).standard_normal(24000)) * 10 ** (level_dbfs / 20)
    assert facts(hiss, 24000).silence_share == float(is_silent)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000), st.integers(0, 100))
def test_silence_share_matches_loop(num_samples: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    wave = (dice.standard_normal(num_samples) * 10 ** dice.uniform(-4, 0, num_samples)).astype(
        np.float32
    )
    windows = [wave[first : first + 160] for first in range(0, num_samples, 160)]
    silent = [
        np.sqrt(np.mean(window.astype(np.float64) ** 2)) < 10 ** (-45 / 20) for window in windows
    ]
    assert facts(wave, 8000).silence_share == pytest.approx(np.mean(silent))


def test_facts_of_clipped_and_empty_waves() -> None:
    assert facts(np.array([1.0, -1.0, 0.5, 0.0]), 8000).clipped_share == 0.5
    assert facts(np.zeros(0, dtype=np.float32), 8000) == audio.AudioFacts(
        0.0, 0.0, -120.0, 1.0, 0.0
    )
    assert facts(np.zeros(100, dtype=np.float32), 8000).rms_dbfs == -120.0
