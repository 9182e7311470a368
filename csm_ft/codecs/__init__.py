"""Audio codecs. Opening one imports what it needs and no more."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from csm_ft.codecs.base import Codec
    from csm_ft.data.token_file import Store

CodecName = Literal["mimi", "melrvq"]
EMBEDDED_MELRVQ = Path(__file__).resolve().parents[2] / "demo" / "codec.safetensors"
MIMI_HUB_NAME = "kyutai/mimi"


class CodecError(ValueError):
    """The codec that is at hand is not the one that made the tokens.

    The message names both and the way out.
    """


def open_codec(
    name: CodecName, source: str = "auto", *, num_codebooks: int | None = None, device: str = "cpu"
) -> "Codec":
    """Open a codec with its first `num_codebooks` codebooks (None = all of melrvq, 32 of Mimi).

    `source` is a file for melrvq (auto = the embedded one) and a hub name, folder or file for Mimi
    (auto = kyutai/mimi). Raises ValueError when it cannot be opened; the message names the ways
    out.
    """
    if name == "melrvq":
        from csm_ft.codecs import melrvq

        codec = melrvq.load(EMBEDDED_MELRVQ if source == "auto" else source)
        return codec if num_codebooks is None else codec.first(num_codebooks)
    from csm_ft.codecs import mimi

    return mimi.load(
        MIMI_HUB_NAME if source == "auto" else source, num_codebooks=num_codebooks, device=device
    )


def guess(num_codebooks: int, vocab_size: int) -> CodecName:
    """Return the published codec that a model of this size speaks through.

    CodecError when it is neither of the two.
    """
    sizes: dict[tuple[int, int], CodecName] = {(32, 2051): "mimi", (8, 256): "melrvq"}
    try:
        return sizes[num_codebooks, vocab_size]
    except KeyError:
        raise CodecError(
            f"{num_codebooks} codebooks of {vocab_size} ids are neither Mimi's (32 of 2051) nor the"
            " embedded codec's (8 of 256)"
        ) from None


def from_store(store: "Store", device: str = "cpu") -> "Codec":
    """Open the codec that made a token file: from inside the file, or by its source.

    CodecError if what is found there has changed.
    """
    info, blob = store.info, store.asset("codec")
    if blob is not None:
        from csm_ft.codecs import melrvq

        codec: Codec = melrvq.load(blob)
    else:
        assert info.codec in ("mimi", "melrvq"), (
            f"unknown codec {info.codec}"
        )  # the store has checked the name
        codec = open_codec(
            info.codec, info.codec_source, num_codebooks=info.num_codebooks, device=device
        )
    if info.codec_fingerprint and codec.fingerprint != info.codec_fingerprint:
        raise CodecError(
            f"the {info.codec} codec {codec.source} ({codec.fingerprint[:12]}) is not the one that"
            f" made the tokens ({info.codec_fingerprint[:12]}); put the former weights back at"
            f" {info.codec_source}, or pretokenise again with these"
        )
    return codec
