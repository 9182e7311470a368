"""Audio codecs. Opening one imports what it needs and no more."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from csm_ft import assets
from csm_ft.errors import CodecError

if TYPE_CHECKING:
    from csm_ft.codecs.base import Codec

CodecName = Literal["mimi", "melrvq"]
EMBEDDED_MELRVQ = assets.path_of("demo/codec.safetensors")
MIMI_HUB_NAME = "kyutai/mimi"


def open_codec(
    name: CodecName, source: str = "auto", *, num_codebooks: int | None = None, device: str = "cpu"
) -> "Codec":
    """Open a codec with its first `num_codebooks` codebooks (None = all of melrvq, 32 of Mimi).

    `source` is a file for melrvq (auto = the embedded one) and a hub name, folder or file for Mimi
    (auto = kyutai/mimi). Raises CodecError when it cannot be opened; the message says what to do.
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
    """Return the published codec whose codes a model of this size predicts.

    Raises CodecError when the size is that of neither codec.
    """
    sizes: dict[tuple[int, int], CodecName] = {(32, 2051): "mimi", (8, 256): "melrvq"}
    try:
        return sizes[num_codebooks, vocab_size]
    except KeyError:
        raise CodecError(
            f"{num_codebooks} codebooks of {vocab_size} ids are neither Mimi's (32 of 2051) nor the"
            " embedded codec's (8 of 256)"
        ) from None


def from_facts(facts: Mapping[str, Any], blob: bytes | None, device: str = "cpu") -> "Codec":
    """Open the codec that made a token file, from its bytes or by its source.

    `facts` holds codec, codec_source, codec_fingerprint and num_codebooks. Raises CodecError when
    the codec found there is not the one that made the tokens.
    """
    if blob is not None:
        from csm_ft.codecs import melrvq

        codec: Codec = melrvq.load(blob)
    else:
        codec = open_codec(
            facts["codec"],
            facts["codec_source"],
            num_codebooks=facts["num_codebooks"],
            device=device,
        )
    wanted = facts["codec_fingerprint"]
    if wanted and codec.fingerprint != wanted:
        raise CodecError(
            f"the {facts['codec']} codec {codec.source} ({codec.fingerprint[:12]}) is not the one"
            f" that made the tokens ({wanted[:12]}); put the former weights back at"
            f" {facts['codec_source']}, or pretokenise again with these"
        )
    return codec
