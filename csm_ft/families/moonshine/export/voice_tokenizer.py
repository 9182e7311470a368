"""tokenizer.bin of the moonshine-voice runtime: the bytes of every token, in the order of ids.

Each is its length (one byte, or from 128 two: the rest of a division by 128 with the highest bit
set, and the quotient) and as many bytes of UTF-8. "▁" stands for a space.
"""

import re

from csm_ft.errors import TokenizerError
from csm_ft.families.moonshine.encoder import TextTokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


def write_tokenizer(tokenizer: TextTokenizer) -> bytes:
    """Return tokenizer.bin; TokenizerError for a kind of tokenizer that it cannot hold."""
    blob = bytearray()
    for piece in pieces_of(tokenizer):
        length = len(piece)
        if length >= 128 * 256:
            raise TokenizerError(
                f"{tokenizer.source}: a token of {length} bytes is too long for tokenizer.bin;"
                " export --format transformers"
            )
        blob += bytes([length]) if length < 128 else bytes([length % 128 + 128, length // 128])
        blob += piece
    return bytes(blob)


def pieces_of(tokenizer: TextTokenizer) -> list[bytes]:
    """Return the bytes of every id; an id that the tokenizer leaves out has none."""
    return [_bytes_of(tokenizer.piece(number)) for number in range(tokenizer.vocab_size)]


def join(pieces: list[bytes], ids: list[int]) -> str:
    """Return the text of tokens as the runtime joins them."""
    text = b"".join(pieces[token] for token in ids).decode("utf-8", errors="replace")
    return text.replace(_SPACE, " ").strip()


def _bytes_of(piece: str) -> bytes:
    found = _BYTE.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else piece.encode("utf-8")
