"""The text tokenizer of a Moshi: a SentencePiece model, opened, fitted, and read piece by piece."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece

from csm_ft import hub
from csm_ft.errors import TokenizerError

HUB_NAME = "kyutai/moshiko-pytorch-bf16"
FILE = "tokenizer_spm_32k_3.model"  # there
FITTED = "fitted"  # facts["tokenizer"] of one that only the token file holds
_BLANK = "\u2581"  # SentencePiece's
_SMALLEST_FIT = 300  # 256 bytes, four special ids, and some letters
_OTHERWISE = "name a local .model of SentencePiece, or fit one with --fit_tokenizer 4000"


class PieceAt(NamedTuple):
    """A piece of a text, and where it begins."""

    id: int
    place: int  # character of the text


class TextTokenizer:
    """A SentencePiece model."""

    def __init__(self, blob: bytes, source: str) -> None:
        """Read the bytes of a model; TokenizerError if they are none."""
        self._model: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(blob)
        except RuntimeError as error:
            way_out = "Moshi's texts are split by SentencePiece; " + _OTHERWISE
            if blob.lstrip()[:1] == b"{":
                way_out = "it is a tokenizer.json; " + way_out
            raise TokenizerError(f"{source}: not a model of SentencePiece; {way_out}") from error
        self.blob, self.source = blob, source
        self.fingerprint = hashlib.sha256(blob).hexdigest()
        self.vocab_size = int(self._model.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._model.encode(text))

    def pieces(self, text: str) -> list[PieceAt]:
        """Return the ids of a text and where each begins, whatever the model normalises."""
        # The places of the library are bytes of the text as it was given.
        letter_of_byte = [
            place for place, letter in enumerate(text) for _ in letter.encode("utf-8")
        ]
        found = []
        for piece in self._model.encode(text, return_type="proto").pieces:
            place = letter_of_byte[min(piece.begin, len(letter_of_byte) - 1)]
            found.append(PieceAt(piece.id, place))
        return found

    def begins_word(self, id_: int) -> bool:
        """Tell whether a piece has the blank before a word."""
        return id_ < self.vocab_size and self._model.id_to_piece(id_).startswith(_BLANK)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return str(self._model.decode(known)).strip()


def open_tokenizer(source: str) -> TextTokenizer:
    """Open a model from a file, a folder that holds one, or a hub name; auto = that of Moshi."""
    source = HUB_NAME if source == "auto" else source
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob("*.model"))
        if len(found) != 1:
            names = ", ".join(one.name for one in found) or "none"
            raise TokenizerError(
                f"{path}: has {names} for a .model of SentencePiece; name the file"
            )
        path = found[0]
    if not path.is_file():
        if not hub.is_hub_name(source):
            raise TokenizerError(f"{path}: no such file; {_OTHERWISE}")
        file = FILE if source.startswith("kyutai/") else "spiece.model"
        path = hub.fetch(source, file, otherwise=_OTHERWISE)
    return TextTokenizer(path.read_bytes(), source)


def fit_tokenizer(texts: Sequence[str], vocab_size: int) -> TextTokenizer:
    """Fit a BPE with bytes for unknown letters, of at most `vocab_size` ids; TokenizerError.

    Ids 0 to 3 are <unk>, <s>, </s> and <pad>, as Moshi's own: 3 is its padding, 0 the end of it.
    """
    if vocab_size < _SMALLEST_FIT:
        raise TokenizerError(f"--fit_tokenizer {vocab_size}: give {_SMALLEST_FIT} or more")
    blob = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=blob,
            vocab_size=vocab_size,
            model_type="bpe",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(f"--fit_tokenizer {vocab_size}: {error}; give another size") from error
    return TextTokenizer(blob.getvalue(), FITTED)
