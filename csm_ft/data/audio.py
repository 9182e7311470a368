"""Sound files in, mono float32 waves out, and back.

Open, cut, mix or pick a channel, resample, measure.

Reads whatever libsndfile reads (wav flac ogg mp3 aiff ...). A wave is [samples] float32, full scale
at -1..1. Everything wrong with a file is an AudioError that names the file and the way out:
libsndfile itself is silent about cut-off files and gives what is left of them.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from csm_ft.atomic import whole_file

Channel = Literal["mix", "left", "right"]

TOLERANCE_SEC = 0.01  # an end that lies this little past the file is a rounded one
SILENCE_DBFS = -45.0  # rms of a 20 ms window below which it counts as silent
WINDOW_SEC = 0.02
FLOOR_DBFS = -120.0  # what digital silence is given as, so that it can stand in JSON
CLIPPED = 0.999  # absolute value from which a sample counts as clipped

_BLOCK_FRAMES = (
    1 << 18
)  # read and written at a time: memory stays flat, and libsndfile crashes on large Vorbis writes
# decoded and dropped before a span of an mp3 or ogg: right after a seek, libsndfile gives other
# samples than in one go
_RUN_UP_SEC = 5.0
_MAX_PEAK = (
    10.0  # float files may go over full scale; 20 dB over it is an unscaled file, not a loud one
)
_STREAMED_BYTES = (
    0x7F000000  # sizes from here on are written by programs that could not know the length
)
_DECLARED_BYTES = re.compile(
    r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)"
)  # in libsndfile's log of the header
_OGG_PAGE_BYTES = 65307  # the largest page there is
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


class AudioError(ValueError):
    """A sound file, or a span of one, that cannot be used.

    The message names the file, what is wrong and the way out.
    """


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
    with _open(path) as file:
        _span(path, file, start_sec, end_sec)
        return AudioInfo(file.samplerate, file.frames, file.channels)


def load(
    path: Path,
    *,
    sample_rate_hz: int,
    start_sec: float | None = None,
    end_sec: float | None = None,
    channel: Channel = "mix",
) -> NDArray[np.float32]:
    """Read the span [start_sec, end_sec) of a file as one mono wave at `sample_rate_hz`.

    Seeks to the span and reads no more than it (mp3 and ogg: 5 s before it, too; mp3: the frame
    headers up to it). `mix` is the mean of all channels. Resampled with soxr HQ: n samples become
    about n * sample_rate_hz / the file's rate.

    Returns:
        [samples] float32.

    Raises:
        AudioError: as `probe`, and when the span does not lie in the file (10 ms of rounding are
        forgiven), the file ends before its
            header says, a sample is not a number or far beyond full scale, or the right channel of
            a mono file is asked for.

    """
    with _open(path) as file:
        if channel == "right" and file.channels == 1:
            raise AudioError(f"{path}: channel right of a mono file; use mix or left")
        start, end = _span(path, file, start_sec, end_sec)
        wave = _read(path, file, start, end, channel)
        if end_sec is None:
            _check_nothing_is_left(path, file)
        source_rate_hz = file.samplerate
    if not np.isfinite(wave).all():
        raise AudioError(
            f"{path}: {np.count_nonzero(~np.isfinite(wave))} samples are NaN or infinite; export"
            " the file again"
        )
    if len(wave) and (peak := float(np.abs(wave).max())) > _MAX_PEAK:
        raise AudioError(
            f"{path}: samples go up to {peak:.4g} where full scale is 1; scale the file to -1..1 or"
            " save it as 16-bit"
        )
    if source_rate_hz != sample_rate_hz:
        wave = soxr.resample(wave, source_rate_hz, sample_rate_hz, quality="HQ").astype(
            np.float32, copy=False
        )
    if not len(wave):
        raise AudioError(
            f"{path}: the span is shorter than one sample at {sample_rate_hz} Hz; drop the row or"
            " fix the span"
        )
    return wave


def save(path: Path, wave: NDArray[np.floating], sample_rate_hz: int) -> None:
    """Write a mono wave, clipped to -1..1, in the format of the suffix (wav and flac: 16-bit).

    The file is there whole or not at all.

    Raises:
        AudioError: the suffix is no format that can be written, the rate does not go with it, or
        the wave has NaNs or channels.

    """
    if path.suffix.lower() not in _FORMATS:
        raise AudioError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; use one of"
            f" {', '.join(_FORMATS)}"
        )
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise AudioError(
            f"{path}: not written: a wave is [samples] of finite numbers, this one has shape"
            f" {wave.shape} or NaNs in it"
        )
    container, encoding = _FORMATS[path.suffix.lower()]
    clipped = np.clip(wave, -1.0, 1.0).astype(np.float32)
    try:
        with (
            whole_file(path) as draft,
            soundfile.SoundFile(
                draft, "w", sample_rate_hz, 1, format=container, subtype=encoding
            ) as file,
        ):
            for first in range(0, len(clipped), _BLOCK_FRAMES):
                file.write(clipped[first : first + _BLOCK_FRAMES])
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: cannot be written at {sample_rate_hz} Hz: {_reason(error)}; wav takes any"
            " rate"
        ) from error


def digest(path: Path) -> str:
    """Return 40 hex digits that name the file's bytes (BLAKE2b, streamed).

    AudioError if it cannot be read.
    """
    _check_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; make it readable or drop the row") from error


def facts(wave: NDArray[np.floating], sample_rate_hz: int) -> AudioFacts:
    """Measure a wave [samples].

    Silence is absolute, not relative to the loudest window: a clip of nothing but hiss is silent,
    and trials are measured with one ruler. Windows do not overlap; a last, shorter one counts as a
    window.
    """
    if not len(wave):
        return AudioFacts(0.0, 0.0, FLOOR_DBFS, 1.0, 0.0)
    power = np.square(wave, dtype=np.float64)
    starts = np.arange(0, len(wave), max(1, round(WINDOW_SEC * sample_rate_hz)))
    window_power = np.add.reduceat(power, starts) / np.diff(starts, append=len(wave))
    size = np.abs(wave)
    return AudioFacts(
        duration_sec=len(wave) / sample_rate_hz,
        peak=float(size.max()),
        rms_dbfs=max(FLOOR_DBFS, 10 * math.log10(max(float(power.mean()), 1e-30))),
        silence_share=float(np.mean(window_power < 10 ** (SILENCE_DBFS / 10))),
        clipped_share=float(np.mean(size >= CLIPPED)),
    )


class _Reader(soundfile.SoundFile):
    """Reads on where it is.

    Soundfile adds a seek to every read of a seekable file, and every seek makes mp3 decoders
    stumble.
    """

    def seekable(self) -> bool:
        """Say no, which only stops those seeks; `seek` works."""
        return False


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a file that has samples and is not cut off.

    Opened by descriptor, so that only the content decides the format.
    """
    _check_file(path)
    try:
        with path.open("rb") as raw, _Reader(raw.fileno(), closefd=False) as file:
            _check_not_cut_off(path, file, raw.fileno())
            if file.frames <= 0:
                raise AudioError(
                    f"{path}: has no samples (an unfinished recording?); drop the row or record it"
                    " again"
                )
            if not 1_000 <= file.samplerate <= 1_000_000:
                raise AudioError(
                    f"{path}: its header says {file.samplerate} Hz, which is no rate of speech;"
                    " export the file again"
                )
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: cannot be decoded: {_reason(error)}; convert it to wav or flac"
        ) from error
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; make it readable or drop the row") from error


def _check_file(path: Path) -> None:
    """Refuse what is not a plain file, before anything can hang on it."""
    try:
        is_file, is_dir, exists = path.is_file(), path.is_dir(), path.exists()
        is_empty = is_file and path.stat().st_size == 0
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; fix the path") from error
    if is_dir:
        raise AudioError(f"{path}: is a folder; name the sound file in it")
    if not is_file:
        hint = "; it has backslashes, write / between folders" if "\\" in str(path) else ""
        problem = "is no plain file" if exists else "no such file"
        raise AudioError(f"{path}: {problem}; paths are relative to the metadata file{hint}")
    if is_empty:
        raise AudioError(f"{path}: is empty (0 bytes); fetch or record it again")


def _check_not_cut_off(path: Path, file: soundfile.SoundFile, descriptor: int) -> None:
    """Compare the length that a header declares with the bytes there are.

    An Ogg file must end with its last page.
    """
    sizes = _DECLARED_BYTES.search(file.extra_info)
    if sizes and int(sizes[2]) + 1024 < int(sizes[1]) < _STREAMED_BYTES:
        raise AudioError(
            f"{path}: cut off: its header says {sizes[1]} bytes of sound, there are {sizes[2]}; "
            "fetch it again, or convert it if that is all"
        )
    if file.format == "OGG":
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _OGG_PAGE_BYTES, max(0, size - _OGG_PAGE_BYTES))
        page = tail.rfind(b"OggS")
        if (
            page < 0 or not tail[page + 5 : page + 6] or not tail[page + 5] & 4
        ):  # header type, bit 2: end of stream (RFC 3533, 6)
            raise AudioError(
                f"{path}: cut off: its last Ogg page is missing; fetch it again, or convert it if"
                " that is all"
            )


def _check_nothing_is_left(path: Path, file: soundfile.SoundFile) -> None:
    """Refuse an mp3 that goes on behind its supposed end.

    Its length was a guess, or it is two files in one.
    """
    if file.format != "MP3":
        return
    descriptor = file.name
    size = os.fstat(descriptor).st_size
    unread = size - os.lseek(descriptor, 0, os.SEEK_CUR)
    if unread > max(1024, size // 20):  # tags at the end are smaller
        raise AudioError(
            f"{path}: {unread} of {size} bytes lie behind the {file.frames / file.samplerate:.2f} s"
            " that its header promises (no length header, or files glued together); convert it to"
            " wav or flac"
        )


def _span(
    path: Path, file: soundfile.SoundFile, start_sec: float | None, end_sec: float | None
) -> tuple[int, int]:
    """Return the span in frames of the file."""
    start_sec = 0.0 if start_sec is None else start_sec
    if not (math.isfinite(start_sec) and start_sec >= 0):
        raise AudioError(
            f"{path}: start_sec {start_sec} is not 0 or more; drop the row or fix the span"
        )
    if end_sec is not None and not (math.isfinite(end_sec) and end_sec > start_sec):
        raise AudioError(
            f"{path}: end_sec {end_sec} is not after start_sec {start_sec}; drop the row or fix the"
            " span"
        )
    duration_sec = file.frames / file.samplerate
    hint = (
        " (an mp3 without a length header looks too short: convert it to wav or flac)"
        if file.format == "MP3"
        else ""
    )
    if end_sec is not None and end_sec > duration_sec + TOLERANCE_SEC:
        raise AudioError(
            f"{path}: end_sec {end_sec} is past the file's end at {duration_sec:.3f} s{hint}; drop"
            " the row or fix the span"
        )
    start = round(start_sec * file.samplerate)
    end = file.frames if end_sec is None else min(round(end_sec * file.samplerate), file.frames)
    if start >= file.frames:
        raise AudioError(
            f"{path}: start_sec {start_sec} is not before the file's end at {duration_sec:.3f}"
            f" s{hint}; fix the span"
        )
    if end <= start:
        raise AudioError(
            f"{path}: {start_sec} to {end_sec} s is less than one sample at {file.samplerate} Hz;"
            " fix the span"
        )
    return start, end


def _read(
    path: Path, file: soundfile.SoundFile, start: int, end: int, channel: Channel
) -> NDArray[np.float32]:
    """Read frames [start, end) as one channel, block by block.

    A header that lies about the length costs no memory.
    """
    _seek(file, start)
    blocks: list[NDArray[np.float32]] = []
    missing = end - start
    while missing:
        block = file.read(
            min(missing, _BLOCK_FRAMES), dtype="float32", always_2d=True
        )  # [frames, channels]
        if not len(block):
            raise AudioError(
                f"{path}: cut off: its header says {file.frames / file.samplerate:.2f} s, decoding"
                f" ends at {(end - missing) / file.samplerate:.2f} s; fetch it again, or convert it"
                " if that is all"
            )
        mono = block.mean(axis=1) if channel == "mix" else block[:, int(channel == "right")]
        blocks.append(mono.astype(np.float32, copy=False))
        missing -= len(block)
    return np.concatenate(blocks)


def _seek(file: soundfile.SoundFile, start: int) -> None:
    """Go to a frame so that what follows is what reading in one go gives.

    Lossy decoders lean on earlier frames (mp3: bit reservoir, Opus: 80 ms), and libsndfile 1.2.2
    lands 100 samples and more off in the last page of a Vorbis file; so there it starts earlier and
    decodes up to the frame.
    """
    if file.format not in ("MP3", "OGG"):
        file.seek(start)
        return
    landing = max(0, start - round(_RUN_UP_SEC * file.samplerate))
    with _silent_stderr():
        if landing:
            file.seek(landing)
        for first in range(landing, start, _BLOCK_FRAMES):
            file.read(min(start - first, _BLOCK_FRAMES), dtype="float32")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Mute the process for some milliseconds.

    Mpg123 writes lines about every seek into the bit reservoir, in C, past sys.stderr.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _reason(error: soundfile.LibsndfileError) -> str:
    """Give a number to the errors that libsndfile has no words for."""
    return error.error_string.rstrip(". ") or f"libsndfile error {error.code}"
