"""Cells of metadata to the values of a row: what counts as absent, what is wrong with a value.

A converter takes the name of a column and its value as some format gives it, and returns the value
of the field, None where it is absent, or a Reason.
"""

import math
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any

from csm_ft.datasets.tables import TAGS, Columns, show
from csm_ft.text_file import nfc

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What an absent number or speaker looks like when a program printed it.
_NO_BREAK = re.compile("[\u00a0\u202f]")  # blanks of French punctuation, which are not printable
_PRINTED_NOTHING = ("nan", "none", "null")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)  # as spreadsheets of many countries write it
_CHANNELS = {
    **dict.fromkeys(("left", "l", "a"), "left"),
    **dict.fromkeys(("right", "r", "b"), "right"),
    **dict.fromkeys(("mix", "mono", "both"), "mix"),
    **{word: word for word in "012"},
}
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "eval", "evaluation"), "test"),
}


class Reason(str):
    """Why a value, and with it its row, cannot be used; names the way out."""

    __slots__ = ()


def read_values(
    record: Mapping[str, Any], columns: Columns, keep: Collection[str] | None = TAGS
) -> tuple[dict[str, Any], dict[str, Reason]]:
    """Return the value of each field that has one, and the reason for each that cannot be read.

    The field `tags` has the columns `keep` by their names in lower case, where they hold a word or
    a number; with None all further columns that do.
    """
    values: dict[str, Any] = {}
    reasons: dict[str, Reason] = {}
    for name, field, is_other in columns.in_order(tuple(record)):
        raw = record[name]
        if field is None:
            tag = str(name).strip().lower()
            if keep is None or tag in keep:
                word = _word(name, raw)
                if isinstance(word, str) and not isinstance(word, Reason):
                    word = _NO_BREAK.sub(" ", word)
                    if word.isprintable():
                        values.setdefault("tags", {})[tag] = nfc(word)
            continue
        if is_other and (field in values or field in reasons):
            continue
        value = _CONVERT[field](name, raw)
        if isinstance(value, Reason):
            reasons.setdefault(field, value)
        elif value is not None and values.setdefault(field, value) != value:
            other = f"{field} {show(values[field])}"
            reason = Reason(f"{name} {show(value)} and {other} differ; keep one of the columns")
            reasons.setdefault(field, reason)
    return values, reasons


def _plain(name: str, value: Any) -> Any:
    """Return Python's own type for what formats bring, and None for what means absent."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # numpy scalars
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        value = value.strip()
        if "\0" in value or (not value.isascii() and _SURROGATE.search(value)):
            return Reason(
                f"{name} {show(value)} has characters that are no text (NUL, broken UTF-8); write"
                " it again as UTF-8"
            )
        return value or None
    if isinstance(value, float | Decimal) and math.isnan(value):
        return None
    return value


def _number_or_word(name: str, value: Any) -> Any:
    """As _plain, and None for the words that programs print for an absent number."""
    value = _plain(name, value)
    if isinstance(value, str) and not isinstance(value, Reason):
        return None if value.lower() in _PRINTED_NOTHING else value
    return value


def _text(name: str, value: Any) -> str | None:
    value = _plain(name, value)
    if value is None or isinstance(value, Reason):
        return value
    if not isinstance(value, str):
        return Reason(f"{name} {show(value)} is not a string; put it in quotes")
    if value in ("nan", "NaN"):
        return Reason(
            f"{name} {show(value)} is an empty cell printed by a program; fill it in or drop"
            " the row"
        )
    # A blank is the only space that is printable, and `value` does not begin with one.
    if not value.isprintable() and not any(map(_is_visible, value)):
        return Reason(f"{name} {show(value)} has no visible character; fill it in or drop the row")
    return value


def _is_visible(letter: str) -> bool:
    return letter.isprintable() and not letter.isspace()


def _transcript(name: str, value: Any) -> str | None:
    value = _text(name, value)
    return value if value is None or isinstance(value, Reason) else nfc(value)


def _path(name: str, value: Any) -> str | None:
    value = _text(name, value)
    if value is not None and not isinstance(value, Reason) and "://" in value:
        return Reason(f"{name} {show(value)} is an address; fetch the file and give its local path")
    return value


def _word(name: str, value: Any) -> str | None:
    value = _number_or_word(name, value)
    if value is None or isinstance(value, Reason):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return Reason(
            f"{name} {show(value)} is neither a word nor a number; write a word, or leave it out"
        )
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return Reason(f"{name} {value} is not finite; write a word or a whole number")
    if not isinstance(value, str) and value == int(value):
        value = int(value)
    word = str(value)
    return re.sub(r"(?<=\d)\.0+$", "", word) if _NUMBER.fullmatch(word) else word


def _speaker(name: str, value: Any) -> str | None:
    word = _word(name, value)
    if word is None or isinstance(word, Reason):
        return word
    if any(letter in "[]" or not letter.isprintable() for letter in word):
        return Reason(
            f"{name} {show(word)} has brackets or control characters, which no name of a speaker"
            " can have; rename it"
        )
    return nfc(word)


def _conversation(name: str, value: Any) -> str | None:
    word = _word(name, value)
    if word is None or isinstance(word, Reason) or word.isprintable():
        return word
    return Reason(f"{name} {show(word)} has control characters; rename it")


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _turn(name: str, value: Any) -> Decimal | Reason | None:
    """Return the number exactly: turns may be numbered by time stamps."""
    value = _number_or_word(name, value)
    if value is None or isinstance(value, Reason):
        return value
    number = Decimal("NaN")
    if _is_number(value):
        with suppress(InvalidOperation):  # an exponent of many digits
            number = Decimal(value if isinstance(value, int) else str(value))
    if not number.is_finite():
        return Reason(
            f"{name} {show(value)} is not a number; number the turns 1, 2, 3, or leave the column"
            " out"
        )
    return number


def _seconds(name: str, value: Any) -> float | Reason | None:
    value = _number_or_word(name, value)
    if value is None or isinstance(value, Reason):
        return value
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
        value = value.replace(",", ".")
    if not _is_number(value):
        return Reason(f"{name} {show(value)} is not a number of seconds; write it like 12.5")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        return Reason(
            f"{name} {show(value)} is not finite; write seconds like 12.5, or leave it out"
        )
    return seconds


def _channel(name: str, value: Any) -> str | None:
    """Return mix, left, right, or the number of a channel, which metadata.py resolves."""
    word = _word(name, value)
    if word is None or isinstance(word, Reason):
        return word
    found = _CHANNELS.get(word.lower())
    return found or Reason(
        f"{name} {show(word)} is no channel; write left, right or mix, or 0 and 1"
    )


def _split(name: str, value: Any) -> str | None:
    """Return train, val or test, or a word that is none of their names as it is."""
    word = _word(name, value)
    return word if word is None or isinstance(word, Reason) else SPLIT_OF.get(word.lower(), word)


def _weight(name: str, value: Any) -> float | Reason | None:
    number = _seconds(name, value)
    if isinstance(number, Reason):
        return Reason(f"{name} {show(value)} is not a number; write it like 1.5, or leave it out")
    if number is not None and number <= 0:
        return Reason(f"{name} {show(value)} is not above 0; drop the row, or leave it out")
    return number


_CONVERT = {
    "path": _path,
    "text": _transcript,
    "start": _seconds,
    "end": _seconds,
    "duration": _seconds,
    "channel": _channel,
    "speaker": _speaker,
    "conversation": _conversation,
    "turn": _turn,
    "split": _split,
    "weight": _weight,
}
