"""The embedded codec: lengths, batches, residual order, its file, its sound."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

from csm_ft.codecs import EMBEDDED_MELRVQ, from_facts, melrvq, open_codec
from csm_ft.codecs.melrvq import FRAME_SAMPLES, MelRVQ
from csm_ft.errors import CodecError
from tests.helpers.recognise import recognise

DEMO = EMBEDDED_MELRVQ.parent


def speech(split: str, count: int) -> list[tuple[np.ndarray, str]]:
    rows = json.loads((DEMO / f"new_voice/{split}.json").read_text())[:count]
    return [
        (soundfile.read(DEMO / "new_voice" / row["path"], dtype="float32")[0], row["text"])
        for row in rows
    ]


@pytest.fixture(scope="module")
def codec() -> MelRVQ:
    return melrvq.load(EMBEDDED_MELRVQ)


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    return [wave for wave, _ in speech("train", 6)]


@pytest.fixture(scope="module")
def small(waves: list[np.ndarray]) -> MelRVQ:
    return melrvq.fit(waves, num_codebooks=3, vocab_size=17, seed=1)


def test_the_embedded_codec(codec: MelRVQ) -> None:
    assert (codec.name, codec.num_codebooks, codec.vocab_size) == ("melrvq", 8, 256)
    assert (codec.sample_rate_hz, codec.frame_samples) == (16000, 1280)
    assert EMBEDDED_MELRVQ.stat().st_size <= 1_500_000
    assert open_codec("melrvq").fingerprint == codec.fingerprint


@settings(max_examples=30, deadline=None)
@given(
    num_samples=st.integers(0, 6 * FRAME_SAMPLES),
    loudness=st.sampled_from([0.0, 1e-4, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_wave_gives_whole_frames(num_samples: int, loudness: float, seed: int) -> None:
    codec = melrvq.load(EMBEDDED_MELRVQ).first(2)
    wave = np.random.default_rng(seed).uniform(-loudness, loudness, num_samples).astype(np.float32)
    codes = codec.encode([wave])[0]
    assert codes.shape == (-(-num_samples // 1280), 2)
    assert codes.dtype == np.uint16
    assert ((codes >= 1) & (codes <= 255)).all()
    sound = codec.decode(codes)
    assert sound.shape == (len(codes) * 1280,)
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()


def test_a_batch_equals_each_clip_alone(codec: MelRVQ, waves: list[np.ndarray]) -> None:
    for codes, wave in zip(codec.encode(waves), waves, strict=True):
        np.testing.assert_array_equal(codes, codec.encode([wave])[0])


def test_threads_do_not_decide_codes(codec: MelRVQ, waves: list[np.ndarray]) -> None:
    with threadpool_limits(limits=1):
        alone = codec.encode(waves)
    with threadpool_limits(limits=2):
        for a, b in zip(alone, codec.encode(waves), strict=True):
            np.testing.assert_array_equal(a, b)


def test_codes_are_those_of_slow_search(codec: MelRVQ, waves: list[np.ndarray]) -> None:
    """One frame at a time, straight from the definition."""
    wave = waves[0]
    column = 37
    window = np.hanning(1025)[:-1] * wave[column * 320 + 160 - 512 : column * 320 + 160 + 512]
    basis = np.exp(-2j * np.pi * np.outer(np.arange(513), np.arange(1024)) / 1024)
    expected = np.log(np.maximum(melrvq._mel_filters() @ np.abs(basis @ window), melrvq.FLOOR))
    columns = melrvq._log_mel(wave)
    np.testing.assert_allclose(columns[column], expected, atol=1e-9)

    codes = codec.encode([wave])[0]
    for t in range(0, len(codes), 5):
        rest = ((columns[4 * t : 4 * t + 4] - codec.mean) / codec.scale).ravel()
        for k, centroids in enumerate(codec.centroids.astype(np.float64)):
            distances = [np.sum((rest - c) ** 2) for c in centroids]
            assert codes[t, k] == np.argmin(distances) + 1
            rest = rest - centroids[np.argmin(distances)]


def test_mel_filters_cover_the_spectrum_evenly() -> None:
    filters = melrvq._mel_filters()
    assert filters.shape == (80, 513)
    assert (filters.sum(1) > 0).all(), "a band without a bin would be silence for ever"
    peaks = filters.argmax(1)
    assert (np.diff(peaks) >= 0).all()
    np.testing.assert_allclose(
        filters[:, 10:480].sum(0), 1, atol=1e-9
    )  # triangles that overlap by half


def test_each_codebook_refines(codec: MelRVQ) -> None:
    errors = codec.errors(
        [wave for wave, _ in speech("val", 8)]
    )  # a voice and sentences the codec was not fitted on
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.5
    assert errors[-1] < 0.25


def test_fewer_codebooks_make_a_coarser_codec(codec: MelRVQ, waves: list[np.ndarray]) -> None:
    coarse = open_codec("melrvq", num_codebooks=3)
    np.testing.assert_array_equal(coarse.encode(waves)[0], codec.encode(waves)[0][:, :3])
    assert coarse.fingerprint != codec.fingerprint
    with pytest.raises(CodecError, match=r"has 8 codebooks, not 9; ask for 1\.\.8"):
        open_codec("melrvq", num_codebooks=9)


def test_it_sounds_like_what_went_in(codec: MelRVQ) -> None:
    """The spectrum survives better than with few codebooks, and a recogniser understands it."""
    clips = speech("val", 16)
    texts = [text for _, text in speech("train", 4)] + [text for _, text in clips]
    right = 0
    for wave, text in clips:
        right += (
            recognise(codec.decode(codec.encode([wave])[0]), codec.sample_rate_hz, texts) == text
        )
    assert right >= 0.9 * len(clips)
    wave = clips[0][0]
    padded = np.pad(wave, (0, -len(wave) % FRAME_SAMPLES))

    def distance(other: np.ndarray) -> float:
        return float(np.mean(np.abs(melrvq._log_mel(padded) - melrvq._log_mel(other))))

    sounds = [distance(codec.first(k).decode(codec.first(k).encode([wave])[0])) for k in (1, 3, 8)]
    assert sounds == sorted(sounds, reverse=True)
    assert sounds[-1] < 0.5 * distance(np.roll(padded, len(padded) // 2))


def test_windows_add_up_as_slowly() -> None:
    random = np.random.default_rng(0)
    windows = random.normal(size=(7, 1024)).astype(np.float32)
    expected = np.zeros(7 * 320 + 1024 - 320)
    for column, window in enumerate(windows):
        expected[column * 320 : column * 320 + 1024] += window
    total = melrvq._add_windows(windows)
    np.testing.assert_allclose(total[: len(expected)], expected, atol=1e-5)
    assert not total[len(expected) :].any()


def test_a_true_spectrum_becomes_its_wave(waves: list[np.ndarray]) -> None:
    wave = waves[0][: 9 * FRAME_SAMPLES]
    spectrum = np.fft.rfft(melrvq._windows(wave) * melrvq._hann(), axis=1).astype(np.complex64)
    found = melrvq._overlap_add(spectrum, melrvq._weights(len(spectrum)))
    np.testing.assert_allclose(found, wave, atol=1e-5)


def test_a_phase_is_found_as_slowly(waves: list[np.ndarray]) -> None:
    """Fast Griffin-Lim straight from its definition, in double precision."""
    hann, momentum = melrvq._hann(np.float64), melrvq.GRIFFIN_LIM_MOMENTUM
    target = np.abs(np.fft.rfft(melrvq._windows(waves[0][: 9 * FRAME_SAMPLES]) * hann, axis=1))

    def synthesize(spectrum: np.ndarray) -> np.ndarray:
        total = np.zeros((2, len(spectrum) * 320 + 1024 - 320))
        for column, windows in enumerate(np.fft.irfft(spectrum, axis=1) * hann):
            total[:, column * 320 : column * 320 + 1024] += windows, hann**2
        return (total[0] / np.maximum(total[1], 1e-6))[352:-352]

    phase = np.random.default_rng(0).uniform(-np.pi, np.pi, target.shape)
    spectrum, before = target * np.exp(1j * phase), 0
    for _ in range(melrvq.GRIFFIN_LIM_STEPS):
        consistent = np.fft.rfft(melrvq._windows(synthesize(spectrum)) * hann, axis=1)
        ahead = consistent + momentum * (consistent - before)
        spectrum, before = target * np.exp(1j * np.angle(ahead)), consistent
    expected = synthesize(spectrum).clip(-1, 1)
    np.testing.assert_allclose(melrvq._griffin_lim(target), expected, atol=1e-4)


def test_the_embedded_codec_opens_without_torch() -> None:
    code = (
        "import sys; from csm_ft.codecs import open_codec; open_codec('melrvq'); print('torch' in"
        " sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=DEMO.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_decoding_is_always_the_same(codec: MelRVQ, waves: list[np.ndarray]) -> None:
    codes = codec.encode(waves[:1])[0]
    np.testing.assert_array_equal(codec.decode(codes), codec.decode(codes))


def test_the_reserved_id_refines_nothing(codec: MelRVQ, waves: list[np.ndarray]) -> None:
    codes = codec.encode(waves[:1])[0]
    without = codes.copy()
    without[:, 4:] = 0
    np.testing.assert_array_equal(codec.decode(without), codec.first(4).decode(codes[:, :4]))


def test_codes_of_another_codec_are_refused(small: MelRVQ) -> None:
    with pytest.raises(ValueError, match="code 17 is not below the codec's 17 ids"):
        small.decode(np.full((2, 3), 17, dtype=np.uint16))
    with pytest.raises(ValueError, match="codebooks"):
        small.decode(np.ones((2, 4), dtype=np.uint16))


def test_the_same_speech_fits_the_same_codec(small: MelRVQ, waves: list[np.ndarray]) -> None:
    again = melrvq.fit(waves, num_codebooks=3, vocab_size=17, seed=1)
    assert again.to_bytes() == small.to_bytes()
    assert (
        melrvq.fit(waves, num_codebooks=3, vocab_size=17, seed=2).fingerprint != small.fingerprint
    )
    assert small.errors(waves)[-1] < small.errors(waves)[0] < 1


def test_too_little_speech_is_refused(waves: list[np.ndarray]) -> None:
    with pytest.raises(
        CodecError,
        match=r"s of speech are too little to fit 256 ids per codebook; give at least 20 s",
    ):
        melrvq.fit(waves[:1])
    with pytest.raises(CodecError, match=r"^0\.0 s"):
        melrvq.fit([])


def test_silence_can_be_fitted_and_encoded() -> None:
    codec = melrvq.fit(
        [np.zeros(30 * FRAME_SAMPLES, dtype=np.float32)], num_codebooks=2, vocab_size=9
    )
    assert codec.encode([np.zeros(1, dtype=np.float32)])[0].shape == (1, 2)


def test_a_saved_codec_is_the_same_codec(
    small: MelRVQ, waves: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(small.to_bytes())
    for loaded in (melrvq.load(path), melrvq.load(str(path)), melrvq.load(small.to_bytes())):
        assert loaded.fingerprint == small.fingerprint
        assert loaded.to_bytes() == small.to_bytes()
        np.testing.assert_array_equal(loaded.encode(waves)[1], small.encode(waves)[1])
    assert melrvq.load(path).source == str(path)


def test_the_fingerprint_sees_every_array(small: MelRVQ) -> None:
    arrays = (small.mean, small.scale, small.centroids)
    for number in range(3):
        changed = [array.copy() for array in arrays]
        changed[number].flat[0] += 1
        assert MelRVQ(*changed, source="x").fingerprint != small.fingerprint  # pyright: ignore


def test_files_that_are_no_codec_are_refused(small: MelRVQ, tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"no such codec file; fit one with --fit_codec"):
        open_codec("melrvq", str(tmp_path / "none.safetensors"))
    tensors = {"mean": small.mean, "scale": small.scale, "centroids": small.centroids}
    for metadata, rule in (
        ({"format": "pt"}, "not a melrvq codec"),
        ({"melrvq": "[1]"}, "not a melrvq codec"),
        (
            {"melrvq": json.dumps(melrvq.CONSTANTS | {"floor": 0.5})},
            r"another version of melrvq \(other floor\)",
        ),
    ):
        with pytest.raises(CodecError, match=rule):
            melrvq.load(save(tensors, metadata=metadata))
    with pytest.raises(CodecError, match="do not fit"):
        melrvq.load(
            save(
                tensors | {"mean": small.mean[:7]},
                metadata={"melrvq": json.dumps(melrvq.CONSTANTS)},
            )
        )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_torn_and_foreign_bytes_are_refused(noise: bytes, cut: int) -> None:
    for blob in (
        noise,
        EMBEDDED_MELRVQ.read_bytes()[:cut],
        EMBEDDED_MELRVQ.read_bytes()[: 8 + cut] + noise,
    ):
        with pytest.raises(CodecError):
            melrvq.load(blob)


def test_a_store_carries_its_codec(small: MelRVQ, codec: MelRVQ) -> None:
    def facts(of: MelRVQ, fingerprint: str) -> dict[str, Any]:
        return {
            "codec": "melrvq",
            "codec_source": "auto",
            "codec_fingerprint": fingerprint,
            "num_codebooks": of.num_codebooks,
        }

    blob = small.to_bytes()
    assert from_facts(facts(small, small.fingerprint), blob).fingerprint == small.fingerprint
    assert from_facts(facts(codec, codec.fingerprint), None).fingerprint == codec.fingerprint
    with pytest.raises(CodecError, match="is not the one that made the tokens"):
        from_facts(facts(small, codec.fingerprint), blob)
