"""Sound files in, float32 waves out, and back: open, cut, choose channels, resample, measure.

Reads whatever libsndfile reads (wav flac ogg mp3 aiff ...). A wave is [N] float32, or [2, N] for
both sides of a stereo file, full scale at -1..1. Everything wrong with a file is an AudioError that
says so, because libsndfile itself is silent about cut-off files and returns what is left of them.
A message names the file and what is wrong with it; callers add what to do about it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from csm_ft.atomic import whole_file
from csm_ft.data import sound_file
from csm_ft.data.measures import (
    CLIPPED,
    Measures,
    Meter,
    mean_power,
    measure,
    to_dbfs,
)
from csm_ft.data.silence import window_power
from csm_ft.errors import AudioError

Channel = Literal["mix", "left", "right", "both"]
Wave = NDArray[np.float32]  # [N], or [2, N] for both channels

TOLERANCE_SEC = 0.01  # an end that lies this little past the file is a rounded one
SILENCE_DBFS = -45.0  # rms of a 20 ms window below which it counts as silent

# Float files may exceed full scale; 20 dB above it is an unscaled file, not a loud one.
_MAX_PEAK = 10.0
_SILENCE_POWER = 10 ** (SILENCE_DBFS / 10)
# Weights of ITU-R BS.775 for the mono mix of 5.1 and 7.1 sound, without the low-frequency channel.
_SIDE, _CENTRE, _LFE, _SURROUND = math.sqrt(0.5), 1.0, 0.0, 0.5
_MIX_WEIGHTS = {
    6: (_SIDE, _SIDE, _CENTRE, _LFE, _SURROUND, _SURROUND),
    8: (_SIDE, _SIDE, _CENTRE, _LFE, *[_SURROUND] * 4),
}
# Places in a wav file of the channels of an Ogg file, which stand in Vorbis order.
_OGG_ORDER = {6: (0, 2, 1, 4, 5, 3), 8: (0, 2, 1, 6, 7, 4, 5, 3)}
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound file says."""

    sample_rate_hz: int
    num_samples: int  # per channel
    num_channels: int

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate_hz


@dataclass(frozen=True)
class AudioFacts:
    """What can be measured on a wave without listening."""

    duration_sec: float
    peak: float  # largest absolute sample
    rms_dbfs: float  # of the whole wave; -120 for digital silence
    silence_share: float  # share of 20 ms windows whose rms is below -45 dBFS; 1 for an empty wave
    clipped_share: float  # share of samples at full scale


def probe(path: Path, *, start_sec: float | None = None, end_sec: float | None = None) -> AudioInfo:
    """Read the header only, and check a span against it.

    The length of an mp3 without a Xing or VBRI header is libsndfile's guess from the first frame;
    `load` finds out if it is wrong.

    Raises:
        AudioError: the file is missing, a folder, not readable, cut off, or holds no samples; the
            span does not lie in it.

    """
    with sound_file.open_sound(path) as file:
        _span(path, file, start_sec, end_sec)
        return AudioInfo(file.samplerate, file.frames, file.channels)


def load(
    path: Path,
    *,
    sample_rate_hz: int,
    start_sec: float | None = None,
    end_sec: float | None = None,
    channel: Channel = "mix",
) -> Wave:
    """Read the span [start_sec, end_sec) of a file as a wave at `sample_rate_hz`.

    Seeks to the span and reads no more than it (mp3 and ogg: 5 s before it, too; mp3: the frame
    headers up to it). `both` keeps the two channels of a stereo file; `mix` is the mean of all
    channels, or, for 6 and 8 channels, the mono mix of 5.1 and 7.1 sound after ITU-R BS.775, scaled
    down where it exceeds full scale. Each channel is resampled with soxr HQ: n samples become about
    n * sample_rate_hz / the file's rate.

    Returns:
        [N] float32; [2, N], left and right, for `both`.

    Raises:
        AudioError: as `probe`, and when the file ends before its header says, a sample is not a
            number or far beyond full scale, or the file lacks the channels that are asked for. A
            span may end 10 ms past the file, as rounded ones do.

    """
    span = {"start_sec": start_sec, "end_sec": end_sec}
    return load_measured(path, sample_rate_hz=sample_rate_hz, channel=channel, **span)[0]


def load_measured(
    path: Path,
    *,
    sample_rate_hz: int,
    start_sec: float | None = None,
    end_sec: float | None = None,
    channel: Channel = "mix",
) -> tuple[Wave, Measures]:
    """Read a wave as `load` does, and measure it and the channels that it comes from."""
    with sound_file.open_sound(path) as file:
        _check_channels(path, file.channels, channel)
        start, end = _span(path, file, start_sec, end_sec)
        wave, meter = _read(path, file, start, end, channel)
        if end_sec is None:
            sound_file.check_nothing_is_left(path, file)
        source_rate_hz, num_channels = file.samplerate, file.channels
    _check_samples(path, wave)
    is_mixed = channel == "mix" and num_channels > 1
    if is_mixed and num_channels in _MIX_WEIGHTS:
        wave /= max(1.0, float(np.abs(wave).max()))
    mix_loss_db = meter.mix_loss_db(wave) if is_mixed else math.nan
    if source_rate_hz != sample_rate_hz:
        wave = resample(wave, source_rate_hz, sample_rate_hz)
    if not wave.shape[-1]:
        raise AudioError(f"{path}: the span is shorter than one sample at {sample_rate_hz} Hz")
    shares = {"clipped_share": meter.clipped_share, "mix_loss_db": mix_loss_db}
    return wave, measure(wave, sample_rate_hz, **shares)


def mix_name(num_channels: int) -> str:
    """Return the name of how `mix` mixes a file of so many channels: it is a part of clip ids."""
    return "mix bs775" if num_channels in _MIX_WEIGHTS else "mix"


def save(path: Path, wave: NDArray[np.floating], sample_rate_hz: int) -> None:
    """Write a wave [N] or [2, N], clipped to -1..1, in the format of the suffix (16-bit wav, flac).

    The file is written whole or not at all.

    Raises:
        AudioError: the suffix is no format that can be written, the rate does not go with it, or
            the wave has NaNs or more than two channels.
        MachineError: the disk is full or refuses to be written.

    """
    if path.suffix.lower() not in _FORMATS:
        suffix = path.suffix or "a file without suffix"
        raise AudioError(f"{path}: cannot write {suffix}; use one of {', '.join(_FORMATS)}")
    is_wave = wave.ndim == 1 or (wave.ndim == 2 and len(wave) == 2)
    if not is_wave or not np.isfinite(wave).all():
        raise AudioError(
            f"{path}: not written: a wave is [samples] or [2, samples] of finite numbers, this one"
            f" has shape {wave.shape} or NaNs in it"
        )
    container, encoding = _FORMATS[path.suffix.lower()]
    clipped = np.clip(wave.T, -1.0, 1.0).astype(np.float32)  # [N], or [N, 2]
    try:
        with (
            whole_file(path) as draft,
            soundfile.SoundFile(
                draft, "w", sample_rate_hz, wave.ndim, format=container, subtype=encoding
            ) as file,
        ):
            for first in range(0, len(clipped), sound_file.BLOCK_FRAMES):
                file.write(clipped[first : first + sound_file.BLOCK_FRAMES])
    except soundfile.LibsndfileError as error:
        reason = sound_file.reason_of(error)
        raise AudioError(
            f"{path}: cannot be written at {sample_rate_hz} Hz: {reason}; wav takes any rate"
        ) from error


def digest(path: Path) -> str:
    """Return 40 hex digits that name the file's bytes (BLAKE2b, streamed).

    AudioError if it cannot be read.
    """
    sound_file.check_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; make it readable") from error


def facts(wave: NDArray[np.floating], sample_rate_hz: int) -> AudioFacts:
    """Measure a mono wave [N].

    Silence is absolute, not relative to the loudest window: a clip of nothing but hiss is silent,
    and all trials are measured alike. Windows do not overlap; a last, shorter one counts as a
    window.
    """
    if not len(wave):
        return AudioFacts(0.0, 0.0, to_dbfs(0.0), 1.0, 0.0)
    size = np.abs(wave)
    return AudioFacts(
        duration_sec=len(wave) / sample_rate_hz,
        peak=float(size.max()),
        rms_dbfs=to_dbfs(mean_power(wave)),
        silence_share=float(np.mean(window_power(wave, sample_rate_hz) < _SILENCE_POWER)),
        clipped_share=float(np.mean(size >= CLIPPED)),
    )


def _check_channels(path: Path, num_channels: int, channel: Channel) -> None:
    if channel == "right" and num_channels == 1:
        raise AudioError(f"{path}: channel right of a mono file")
    if channel == "both" and num_channels != 2:
        noun = "channel" if num_channels == 1 else "channels"
        raise AudioError(f"{path}: has {num_channels} {noun}, not the two of a stereo file")


def _check_samples(path: Path, wave: Wave) -> None:
    """Refuse samples that are not finite, or far beyond full scale, in any channel."""
    num_bad = np.count_nonzero(~np.isfinite(wave))
    if num_bad:
        raise AudioError(f"{path}: {num_bad} samples are NaN or infinite; export the file again")
    if wave.size and (peak := float(np.abs(wave).max())) > _MAX_PEAK:
        raise AudioError(
            f"{path}: samples go up to {peak:.4g} where full scale is 1; scale the file to -1..1 or"
            " save it as 16-bit"
        )


def resample(wave: Wave, from_hz: int, to_hz: int) -> Wave:
    """Resample each channel by itself, [N] or [2, N], with soxr HQ."""
    if wave.ndim == 2:
        return np.stack([resample(side, from_hz, to_hz) for side in wave])
    return soxr.resample(wave, from_hz, to_hz, quality="HQ").astype(np.float32, copy=False)


def _span(
    path: Path, file: soundfile.SoundFile, start_sec: float | None, end_sec: float | None
) -> tuple[int, int]:
    """Return the span in frames of the file."""
    start_sec = 0.0 if start_sec is None else start_sec
    if not (math.isfinite(start_sec) and start_sec >= 0):
        raise AudioError(f"{path}: start_sec {start_sec} is not 0 or more")
    if end_sec is not None and not (math.isfinite(end_sec) and end_sec > start_sec):
        raise AudioError(f"{path}: end_sec {end_sec} is not after start_sec {start_sec}")
    duration_sec = file.frames / file.samplerate
    hint = ""
    if file.format == "MP3":
        hint = " (an mp3 without a length header looks too short: convert it to wav or flac)"
    if end_sec is not None and end_sec > duration_sec + TOLERANCE_SEC:
        raise AudioError(
            f"{path}: end_sec {end_sec} is past the file's end at {duration_sec:.3f} s{hint}"
        )
    start = round(start_sec * file.samplerate)
    end = file.frames if end_sec is None else min(round(end_sec * file.samplerate), file.frames)
    if start >= file.frames:
        raise AudioError(
            f"{path}: start_sec {start_sec} is not before the file's end at {duration_sec:.3f}"
            f" s{hint}"
        )
    if end <= start:
        raise AudioError(
            f"{path}: {start_sec} to {end_sec} s is less than one sample at {file.samplerate} Hz"
        )
    return start, end


def _read(
    path: Path, file: soundfile.SoundFile, start: int, end: int, channel: Channel
) -> tuple[Wave, Meter]:
    """Read frames [start, end), block by block: a wrong length in the header costs no memory.

    Only the channels that are asked for are measured.
    """
    sound_file.seek(file, start)
    weights = _MIX_WEIGHTS.get(file.channels)
    if weights and file.format == "OGG":
        weights = tuple(weights[place] for place in _OGG_ORDER[file.channels])
    blocks: list[Wave] = []
    meter = Meter()
    missing = end - start
    while missing:
        # [frames, channels]
        block = file.read(min(missing, sound_file.BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            raise AudioError(
                f"{path}: cut off: its header says {file.frames / file.samplerate:.2f} s, decoding"
                f" ends at {(end - missing) / file.samplerate:.2f} s; fetch it again, or convert it"
                " if that is all"
            )
        missing -= len(block)
        if channel in ("left", "right"):
            block = block[:, [int(channel == "right")]]
        meter.add(block)
        blocks.append(_choose(block, channel, weights))
    return np.concatenate(blocks, axis=-1), meter


def _choose(block: NDArray[Any], channel: Channel, weights: Sequence[float] | None) -> Wave:
    """Return the wave of a block of the wanted channels: [frames], or [2, frames]."""
    if channel == "both":
        return np.ascontiguousarray(block.T)
    if channel == "mix" and weights:
        return block @ np.array(weights, np.float32)
    return block.mean(axis=1)
