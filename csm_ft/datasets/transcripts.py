"""Lists of transcripts in whatever encoding they were saved in.

UTF-8, UTF-16 and UTF-32 are recognised. 8-bit files do not say what they are: they are decoded as
the language is usually written, and the text must look like that language. Not charset-normalizer,
which knows nothing of the language and guesses wrongly on short files.
"""

import re
from pathlib import Path

from csm_ft.errors import MetadataError
from csm_ft.text_file import decode_unicode

_EIGHT_BIT = {"zh": ("gb18030", "big5"), "en": ("cp1252", "gb18030")}
# UTF-8 read as cp1252, and what GBK makes of a replacement character.
_MOJIBAKE = re.compile("\ufffd|â€|Ã[\u0080-\u00bf]|ï¿½|锟斤")
_HAN = re.compile("[\u4e00-\u9fff]")
_NO_ASCII = re.compile("[^\x00-\x7f]")
# Two letters in a row that English does not have, quotes and dashes left out.
_NO_ENGLISH = re.compile("[^\x00-\x7f\u2010-\u2026\u3000-\u303f\uff00-\uffef]{2}|[\x80-\x9f]")


def read_transcripts(path: Path, language: str) -> str:
    """Return the text of a list in a `language`, zh or en.

    Raises MetadataError, which names the file, where no encoding makes a text of that language.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MetadataError(
            f"{path}: cannot be read: {error.strerror}; make it readable"
        ) from error
    text = decode_unicode(data)
    candidates = [text] if text is not None else []
    candidates += [found for one in _EIGHT_BIT[language] if (found := _decode(data, one))]
    good = next((one for one in candidates if _is_plausible(one, language)), None)
    if good is None:
        tried = ", ".join(("UTF-8", "UTF-16", *_EIGHT_BIT[language]))
        raise MetadataError(
            f"{path}: makes no text in {_NAMES[language]} as {tried}; save it as UTF-8, or fetch it"
            " again"
        )
    return good


def is_broken(text: str) -> bool:
    """Tell whether a text has characters of a wrong encoding in it (mojibake)."""
    return _MOJIBAKE.search(text) is not None


_NAMES = {"zh": "Chinese", "en": "English"}


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _is_plausible(text: str, language: str) -> bool:
    """Tell whether a text looks like its language.

    Chinese: nearly all characters beyond ASCII are Han or punctuation, and frequent ones (GB 2312
    or Big5 have them). English: hardly anything beyond ASCII, and never two such letters in a row.
    """
    others = _NO_ASCII.findall(text)
    if language == "en":
        return not _NO_ENGLISH.search(text) and len(others) <= 0.05 * len(text)
    han = _HAN.findall(text)
    frequent = [letter for letter in han if letter.encode("gb2312", "ignore")]
    return len(han) >= 0.7 * len(others) > 0 and len(frequent) >= 0.9 * len(han)
