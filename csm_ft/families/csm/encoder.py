"""CSM's text.

`[speaker]text` between BOS and EOS, by any tokenizer.json that has Llama 3's two special tokens.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

if TYPE_CHECKING:
    from csm_ft.data.token_file import Store

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
TEMPLATE = "[{speaker}]{text}"
EMBEDDED_TOKENIZER = Path(__file__).resolve().parents[3] / "demo" / "tokenizer.json"
HUB_NAMES = (
    "sesame/csm-1b",
    "meta-llama/Llama-3.2-1B",
    "unsloth/Llama-3.2-1B",
)  # the same vocabulary; the last one is open to all
MAX_TRAVELLING_BYTES = 1_000_000


class TextError(ValueError):
    """A tokenizer that cannot be had or does not fit; the message names the ways out."""


class TextTokenizer:
    """`[speaker]text` between BOS and EOS.

    A special token's name inside a transcript is text like any other.
    """

    def __init__(self, blob: bytes, source: str) -> None:
        """Read the bytes of a tokenizer.json; its post-processor is replaced by BOS $A EOS.

        TextError if it is none, or lacks those two.
        """
        try:
            tokenizer = Tokenizer.from_str(blob.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise TextError(
                f"{source}: not a tokenizer.json of the tokenizers library ({error}); fetch it"
                " again"
            ) from error
        ends = [(name, tokenizer.token_to_id(name)) for name in (BOS, EOS)]
        for name, token_id in ends:
            if token_id is None:
                raise TextError(
                    f"{source}: has no {name} token; CSM reads text between {BOS} and {EOS} (any"
                    " Llama 3 tokenizer has both)"
                )
        tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ends)
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.source = source
        self.fingerprint = hashlib.sha256(blob).hexdigest()
        self.vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self.template = TEMPLATE
        self._tokenizer = tokenizer
        self._blob = blob

    def encode(self, text: str, speaker: str | None) -> NDArray[np.uint32]:
        """Return BOS, the tokens of `[speaker]text` (speaker None: of `text`) and EOS."""
        prompt = text if speaker is None else self.template.format(speaker=speaker, text=text)
        return np.array(self._tokenizer.encode(prompt).ids, dtype=np.uint32)

    def decode(self, ids: Sequence[int] | NDArray[np.uint32]) -> str:
        """Return the text of tokens, without BOS and EOS."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def to_bytes(self) -> bytes | None:
        """Return the tokenizer.json if it is small enough (1 MB) to travel inside the token file.

        Else None.
        """
        return self._blob if len(self._blob) <= MAX_TRAVELLING_BYTES else None


def open_tokenizer(source: str = "auto", *, codec: str = "mimi") -> TextTokenizer:
    """Open a tokenizer.json: a file, a folder that holds one, or a hub name.

    auto = for melrvq the embedded one; for Mimi Llama 3.2's, from the first of sesame/csm-1b,
    meta-llama/Llama-3.2-1B and unsloth/Llama-3.2-1B that can be had (`.source` says which).
    TextError names the ways out.
    """
    if source == "auto" and codec == "melrvq":
        return TextTokenizer(EMBEDDED_TOKENIZER.read_bytes(), str(EMBEDDED_TOKENIZER))
    if source == "auto":
        return _first_from_hub()
    path = Path(source) / "tokenizer.json" if Path(source).is_dir() else Path(source)
    if path.is_file():
        return TextTokenizer(path.read_bytes(), source)
    if (
        Path(source).is_dir()
        or path.is_absolute()
        or source.startswith(".")
        or source.count("/") != 1
    ):
        raise TextError(
            f"{path}: no such file; name a tokenizer.json, a folder that holds one, or a hub name"
            " (owner/name)"
        )
    return _from_hub(source)


def tokenizer_from_store(store: "Store") -> TextTokenizer:
    """Open the tokenizer that made a token file's text: from inside the file, or by its name.

    TextError if it has changed since.

    Without a hash (files of the public trainer) any publisher of Llama 3.2's vocabulary will do.
    """
    blob = store.asset("tokenizer")
    info = store.info
    if blob is not None:
        tokenizer = TextTokenizer(blob, info.tokenizer)
    else:
        any_publisher = info.tokenizer in HUB_NAMES and not info.tokenizer_fingerprint
        tokenizer = open_tokenizer("auto" if any_publisher else info.tokenizer, codec=info.codec)
    if info.tokenizer_fingerprint and tokenizer.fingerprint != info.tokenizer_fingerprint:
        raise TextError(
            f"the tokenizer {tokenizer.source} ({tokenizer.fingerprint[:12]}) is not the one that"
            f" made the tokens ({info.tokenizer_fingerprint[:12]}); put the former tokenizer.json"
            " back, or pretokenise again (audio codes are kept)"
        )
    return tokenizer


def _first_from_hub() -> TextTokenizer:
    """Try each name that publishes Llama 3.2's tokenizer.

    What is in the local cache first, then the hub.
    """
    for name in HUB_NAMES:
        cached = try_to_load_from_cache(name, "tokenizer.json")
        if isinstance(cached, str):
            return TextTokenizer(Path(cached).read_bytes(), name)
    for name in HUB_NAMES[:-1]:
        try:
            return _from_hub(name)
        except TextError as error:
            if not isinstance(error.__cause__, GatedRepoError):
                raise
    return _from_hub(HUB_NAMES[-1])


def _from_hub(name: str) -> TextTokenizer:
    try:
        path = hf_hub_download(name, "tokenizer.json")
    except GatedRepoError as error:
        raise TextError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name} and run `hf auth"
            " login` (or set HF_TOKEN in .env), or name another source: unsloth/Llama-3.2-1B, or a"
            " local tokenizer.json"
        ) from error
    except (OSError, ValueError) as error:  # the hub's own errors are one of the two
        raise TextError(
            f"cannot get tokenizer.json of {name} from the hub ({type(error).__name__}); check the"
            " name and the network (HF_HUB_OFFLINE must not be set), run `hf auth login` if it is"
            " private, or name a local tokenizer.json"
        ) from error
    return TextTokenizer(Path(path).read_bytes(), name)
