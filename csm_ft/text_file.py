"""Text files as people save them: in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

Those named .gz are unpacked.

One text can be spelled in several forms of Unicode, é as one character or as e and an accent; `nfc`
returns the composed one, in which texts and names are compared and kept.
"""

import codecs
import gzip
import unicodedata
import zlib
from pathlib import Path

from csm_ft.errors import UserError

_MARKS = (  # the mark of UTF-16 is a part of the one of UTF-32, so that one comes first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BEGINNING_BYTES = 65536


def read_text(path: Path, error_class: type[UserError]) -> str:
    """Read a text file, without its byte order mark; line ends stay as they are.

    Raises `error_class`, with file, line and way out, for what is no text in these encodings, and
    OSError where the system does not give the file.
    """
    data = _unpacked(path, error_class)
    mark, encoding = next((one for one in _MARKS if data.startswith(one[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    if encoding == "utf-8" and b"\0" in data:
        raise error_class(
            f"{path}: is UTF-16 or UTF-32 without a byte order mark, or no text at all; save it as"
            " UTF-8 (iconv -f UTF-16LE -t UTF-8)"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="replace").count("\n") + 1
        raise error_class(
            f"{path} line {line}: byte 0x{data[error.start]:02x} is not {encoding.upper()}; save"
            " the file as UTF-8"
        ) from error


def _unpacked(path: Path, error_class: type[UserError]) -> bytes:
    data = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise error_class(
            f"{path}: cannot be unpacked ({error}); download or compress it again"
        ) from error


def decode_unicode(data: bytes) -> str | None:
    """Return the text of bytes in UTF-8, or in UTF-16 or UTF-32 with a mark; None for others.

    UTF-16 without its mark is told by the zero bytes that ASCII characters have in it.
    """
    mark, encoding = next((one for one in _MARKS if data.startswith(one[0])), (b"", "utf-8"))
    if not mark and b"\0" in data:
        odd, even = data[1::2].count(0), data[::2].count(0)
        encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        return None


def read_first_line(path: Path) -> str:
    """Return the first line of a file that may be text, or as much as one read gives; OSError."""
    with path.open("rb") as file:
        data = file.read(_BEGINNING_BYTES)
    mark, encoding = next((one for one in _MARKS if data.startswith(one[0])), (b"", "utf-8"))
    text = data[len(mark) :].decode(encoding, errors="replace")
    return text.lstrip().split("\n", 1)[0].rstrip("\r")


def nfc(text: str) -> str:
    """Return the composed form of a text (Unicode NFC)."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
