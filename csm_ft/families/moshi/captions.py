"""The words of a text stream, with the times at which they are written."""

from collections.abc import Collection
from typing import Any

from numpy.typing import NDArray

from csm_ft.families.encoder import Caption
from csm_ft.families.moshi.tokenizer import TextTokenizer


def read_captions(
    text: NDArray[Any],
    tokenizer: TextTokenizer,
    silent_ids: Collection[int],
    frame_sec: float,
    delay_sec: float = 0.0,
) -> list[Caption]:
    """Return the words of a text stream [T]; `delay_sec` is how far it lies behind the sound.

    A word ends where nothing is written, and before a piece that begins a word. Pieces that make
    one letter of several bytes stay together.
    """
    words: list[tuple[int, list[int]]] = []
    is_open = False
    for frame, id_ in enumerate(text.tolist()):
        if id_ < 0 or id_ in silent_ids:
            is_open = False
        elif is_open and not tokenizer.begins_word(id_):
            words[-1][1].append(id_)
        else:
            words.append((frame, [id_]))
            is_open = True
    return [
        Caption(round(max(0.0, frame * frame_sec - delay_sec), 3), _text(ids, tokenizer))
        for frame, ids in words
    ]


def _text(ids: list[int], tokenizer: TextTokenizer) -> str:
    blank = " " if tokenizer.begins_word(ids[0]) else ""
    return blank + tokenizer.decode(ids)
