"""Sound files opened with guards: libsndfile is silent about cut-off files and odd seeks.

Every message of an AudioError begins with the path and says what is wrong with the file.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

from csm_ft.data.not_read import what_helps
from csm_ft.errors import AudioError

# Read and written at a time: memory stays flat, and libsndfile crashes on large Vorbis writes.
BLOCK_FRAMES = 1 << 18
# Decoded and dropped before a span of an mp3 or ogg: right after a seek, libsndfile gives other
# samples than when it reads the file in one go.
_RUN_UP_SEC = 5.0
# Sizes from here on are written by programs that could not know the length.
_STREAMED_BYTES = 0x7F000000
# In libsndfile's log of the header.
_DECLARED_BYTES = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
_OGG_PAGE_BYTES = 65307  # the largest page there is
# What Git leaves in place of a file that Git LFS keeps elsewhere.
_LFS_BEGINNING, _LFS_MAX_BYTES = b"version https://git-lfs", 1024


class _Reader(soundfile.SoundFile):
    """Reads on from where it is.

    Soundfile adds a seek to every read of a seekable file, and every seek makes mp3 decoders
    stumble.
    """

    def seekable(self) -> bool:
        """Say no, which only stops those seeks; `seek` works."""
        return False


@contextmanager
def open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a file that has samples and is not cut off; AudioError for any other.

    Opened by descriptor, so that only the content decides the format.
    """
    check_file(path)
    try:
        with path.open("rb") as raw, _Reader(raw.fileno(), closefd=False) as file:
            _check_not_cut_off(path, file, raw.fileno())
            if file.frames <= 0:
                raise AudioError(f"{path}: has no samples (an unfinished recording?)")
            if not 1_000 <= file.samplerate <= 1_000_000:
                raise AudioError(
                    f"{path}: its header says {file.samplerate} Hz, which is no rate of speech;"
                    " export the file again"
                )
            yield file
    except soundfile.LibsndfileError as error:
        way_out = what_helps(path.name) or "convert it to wav or flac"
        raise AudioError(f"{path}: cannot be decoded: {reason_of(error)}; {way_out}") from error
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; make it readable") from error


def check_file(path: Path) -> None:
    """Refuse what is not a plain file, before anything can hang on it."""
    try:
        is_file, is_dir, exists = path.is_file(), path.is_dir(), path.exists()
        is_empty = is_file and path.stat().st_size == 0
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}") from error
    if is_dir:
        raise AudioError(f"{path}: is a folder; name the sound file in it")
    if not is_file and exists:
        raise AudioError(f"{path}: is no plain file")
    if not is_file:
        hint = " (it has backslashes: write / between folders)" if "\\" in str(path) else ""
        raise AudioError(f"{path}: no such file{hint}")
    if is_empty:
        raise AudioError(f"{path}: is empty (0 bytes); fetch or record it again")
    if is_lfs_pointer(path):
        raise AudioError(
            f"{path}: is a Git LFS pointer, not the sound; run `git lfs pull` in its repository, or"
            " fetch the file itself"
        )


def is_lfs_pointer(path: Path) -> bool:
    """Tell whether a file only names one that Git LFS keeps; False where it cannot be read."""
    try:
        if path.stat().st_size > _LFS_MAX_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(_LFS_BEGINNING)) == _LFS_BEGINNING
    except OSError:
        return False


def _check_not_cut_off(path: Path, file: soundfile.SoundFile, descriptor: int) -> None:
    """Compare the length that a header declares with the bytes there are.

    An Ogg file must end with its last page.
    """
    sizes = _DECLARED_BYTES.search(file.extra_info)
    if sizes and int(sizes[2]) + 1024 < int(sizes[1]) < _STREAMED_BYTES:
        raise AudioError(
            f"{path}: cut off: its header says {sizes[1]} bytes of sound, there are {sizes[2]};"
            " fetch it again, or convert it if that is all"
        )
    if file.format == "OGG":
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _OGG_PAGE_BYTES, max(0, size - _OGG_PAGE_BYTES))
        page = tail.rfind(b"OggS")
        header_type = tail[page + 5 : page + 6] if page >= 0 else b""
        if not header_type or not header_type[0] & 4:  # bit 2: end of stream (RFC 3533, 6)
            raise AudioError(
                f"{path}: cut off: its last Ogg page is missing; fetch it again, or convert it if"
                " that is all"
            )


def check_nothing_is_left(path: Path, file: soundfile.SoundFile) -> None:
    """Refuse an mp3 with more behind its supposed end.

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


def seek(file: soundfile.SoundFile, start: int) -> None:
    """Go to a frame so that what follows is the same as when the file is read in one go.

    Lossy decoders depend on earlier frames (mp3: bit reservoir, Opus: 80 ms), and libsndfile 1.2.2
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
        for first in range(landing, start, BLOCK_FRAMES):
            file.read(min(start - first, BLOCK_FRAMES), dtype="float32")


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


def reason_of(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's words for an error, or its number where there are none."""
    return error.error_string.rstrip(". ") or f"libsndfile error {error.code}"
