"""CSM's encoder: audio by a codec, text as tokens of a template between BOS and EOS.

The tokenizer can be any tokenizer.json that has Llama 3's two special tokens.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from csm_ft import assets, codecs, hub
from csm_ft.codecs.base import Codec, Wave
from csm_ft.data.rows import Row
from csm_ft.data.split import ArrayKind, Arrays, Store
from csm_ft.errors import GatedError, TokenizerError
from csm_ft.families.csm.config import CsmPretokenizeConfig
from csm_ft.families.encoder import Encoder
from csm_ft.families.template import DEFAULT_TEMPLATE, TextTemplate

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
EMBEDDED_TOKENIZER = assets.path_of("demo/tokenizer.json")
# Publishers of the same vocabulary; the last one is not gated.
HUB_NAMES = ("sesame/csm-1b", "meta-llama/Llama-3.2-1B", "unsloth/Llama-3.2-1B")
MAX_ASSET_BYTES = 1_000_000
FITTED = "fitted"  # codec_source of a codec that only the token file holds
NO_TAGS: Mapping[str, str] = MappingProxyType({})
_FIT_SEC = 1800.0  # more speech does not improve a fitted codec, and may not fit in memory


class CsmEncoder(Encoder):
    """A codec, a tokenizer and a template; a clip keeps `codes` [T, K] and `text_tokens` [L].

    With tags in the template it keeps `untagged_tokens`, too, for --tag_dropout.
    With --fit_codec there is no codec until `fit` or `restore` has set one.
    """

    def __init__(
        self, codec: Codec | None, tokenizer: "TextTokenizer", template: str = DEFAULT_TEMPLATE
    ) -> None:
        self.tokenizer, self.template = tokenizer, TextTemplate(template)
        self.columns = self.template.columns
        self.text_fingerprint = tokenizer.fingerprint
        self.max_positions = 0  # text tokens + frames + 1 that a clip may take; 0 = any
        self._options: CsmPretokenizeConfig | None = None
        if codec is None:
            from csm_ft.codecs import melrvq

            self.fit_sec = _FIT_SEC
            self.sample_rate_hz = melrvq.SAMPLE_RATE_HZ
            self.frame_sec = melrvq.FRAME_SAMPLES / melrvq.SAMPLE_RATE_HZ
            self.arrays = {"codes": ArrayKind("<u2"), **self._text_arrays()}
        else:
            self._use(codec, _full_path(codec.source))

    @classmethod
    def from_options(cls, options: CsmPretokenizeConfig, device: str) -> "CsmEncoder":
        """Open the codec and tokenizer that the options of pretokenize.py name."""
        tokenizer = open_tokenizer(options.tokenizer, codec=options.codec)
        codec = None
        if not options.fit_codec:
            num_codebooks = options.num_codebooks or None
            codec = codecs.open_codec(
                options.codec, options.codec_source, num_codebooks=num_codebooks, device=device
            )
        encoder = cls(codec, tokenizer, options.template)
        encoder.max_positions, encoder._options = options.max_positions, options
        return encoder

    @classmethod
    def from_store(cls, store: Store, device: str) -> "CsmEncoder":
        """Open the codec and tokenizer that made a token file.

        Raises EncoderError if they have changed since.
        """
        facts = store.info.facts
        codec = codecs.from_facts(facts, store.asset("codec"), device)
        encoder = cls(codec, tokenizer_from_store(store), facts["template"])
        encoder._use(codec, facts["codec_source"])
        return encoder

    def _use(self, codec: Codec, source: str) -> None:
        """Set the codec; `source` is where the token file says that it is found again."""
        self.codec, self.fit_sec = codec, 0.0
        self.sample_rate_hz = codec.sample_rate_hz
        self.frame_sec = codec.frame_samples / codec.sample_rate_hz
        self.audio_fingerprint = codec.fingerprint
        self.arrays = {
            "codes": ArrayKind("<u2", codec.num_codebooks),
            **self._text_arrays(),
        }
        self.facts = {
            "codec": codec.name,
            "codec_source": source,
            "codec_fingerprint": codec.fingerprint,
            "num_codebooks": codec.num_codebooks,
            "codec_vocab_size": codec.vocab_size,
            "sample_rate_hz": codec.sample_rate_hz,
            "frame_samples": codec.frame_samples,
            "tokenizer": _full_path(self.tokenizer.source),
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "text_vocab_size": self.tokenizer.vocab_size,
            "template": self.template.pattern,
        }
        blobs = {"codec": codec.to_bytes(), "tokenizer": self.tokenizer.to_bytes()}
        self.assets = {name: blob for name, blob in blobs.items() if blob is not None}

    def encode_audio(self, waves: Sequence[Wave]) -> list[Arrays | str]:
        """Encode waves [N] to codes [ceil(N / frame_samples), K]."""
        encoded: list[Arrays | str] = []
        for wave, codes in zip(waves, self.codec.encode(waves), strict=True):
            num_frames = math.ceil(len(wave) / self.codec.frame_samples)
            assert codes.shape == (num_frames, self.codec.num_codebooks), f"gave {codes.shape}"
            assert int(codes.max()) < self.codec.vocab_size, f"gave a code of {codes.max()}"
            # CSM reads an all-zero frame as the end of an utterance.
            if codes.any(axis=1).all():
                encoded.append({"codes": codes})
            else:
                encoded.append(
                    "a frame of its codes is all zero, which means end of speech to the model; cut"
                    " the clip differently"
                )
        return encoded

    def encode_text(self, row: Row) -> Arrays | str:
        """Return the text tokens of a row, [L], with and without its tags."""
        reason = self.template.problem(row.tags)
        if reason:
            return reason
        tokens = {"text_tokens": self.encode_words(row.text, row.speaker or "", row.tags)}
        if self.columns:
            tokens["untagged_tokens"] = self.encode_words(row.text, row.speaker or "")
        return tokens

    def encode_words(
        self, text: str, speaker: str, tags: Mapping[str, str] = NO_TAGS
    ) -> NDArray[np.uint32]:
        """Return the tokens of what a speaker says, by the template, [L]."""
        return self.tokenizer.encode(self.template.render(text, speaker, tags))

    def _text_arrays(self) -> dict[str, ArrayKind]:
        names = ("text_tokens", "untagged_tokens") if self.columns else ("text_tokens",)
        return dict.fromkeys(names, ArrayKind("<u4"))

    def rejects(self, row: Row, lengths: Mapping[str, int]) -> str:
        """Return why a clip is too long for the model, or ""."""
        num_tokens, num_frames = lengths["text_tokens"], lengths["codes"]
        if not self.max_positions or num_tokens + num_frames + 1 <= self.max_positions:
            return ""
        return (
            f"{num_tokens} text tokens + {num_frames} frames + 1 are more than --max_positions"
            f" {self.max_positions}; cut the clip ({num_frames * self.frame_sec:.1f} s) into"
            " shorter ones"
        )

    def decode(self, arrays: Arrays) -> Wave:
        """Return the wave of codes [T, K], [T * frame_samples]."""
        return self.codec.decode(arrays["codes"])

    def fit(self, waves: Sequence[Wave]) -> None:
        """Fit an embedded codec on training speech."""
        from csm_ft.codecs import melrvq

        assert self._options is not None, "only options ask for a fitted codec"
        size = {"num_codebooks": self._options.num_codebooks}
        chosen = size if self._options.num_codebooks else {}
        self._use(melrvq.fit(waves, seed=self._options.seed, **chosen), FITTED)

    def restore(self, facts: Mapping[str, Any], assets: Mapping[str, bytes]) -> bool:
        """Restore the codec that an earlier run fitted for the same output.

        Returns False when there is none, or when another one is to be fitted.
        """
        from csm_ft.codecs import melrvq

        assert self._options is not None, "only options ask for a fitted codec"
        if self._options.refit_codec or facts.get("codec_source") != FITTED:
            return False
        codec = melrvq.load(assets["codec"])
        if self._options.num_codebooks not in (0, codec.num_codebooks):
            return False
        self._use(codec, FITTED)
        return True

    def describe(self) -> list[str]:
        """Return lines that name the codec and the tokenizer."""
        codec = self.codec
        lines = [f"codec {codec.name} ({codec.source}), {codec.num_codebooks} codebooks"]
        if codec.source == str(codecs.EMBEDDED_MELRVQ):
            lines.append(
                "note: the embedded codec knows the voices of the demo; recorded voices want"
                " --codec mimi, or --fit_codec"
            )
        return [*lines, f"text by {self.tokenizer.source}"]


class TextTokenizer:
    """Encodes text between BOS and EOS.

    The name of a special token inside a transcript is encoded as plain text.
    """

    def __init__(self, blob: bytes, source: str) -> None:
        """Read the bytes of a tokenizer.json; its post-processor is replaced by BOS $A EOS.

        Raises TokenizerError if they are not one, or if it lacks BOS or EOS.
        """
        try:
            tokenizer = Tokenizer.from_str(blob.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{source}: not a tokenizer.json of the tokenizers library ({error}); fetch it"
                " again"
            ) from error
        ends = [(name, tokenizer.token_to_id(name)) for name in (BOS, EOS)]
        for name, token_id in ends:
            if token_id is None:
                raise TokenizerError(
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
        self._tokenizer = tokenizer
        self._blob = blob

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return BOS, the tokens of a text and EOS, [L]."""
        return np.array(self._tokenizer.encode(text).ids, dtype=np.uint32)

    def decode(self, ids: Sequence[int] | NDArray[np.uint32]) -> str:
        """Return the text of tokens, without BOS and EOS."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def to_bytes(self) -> bytes | None:
        """Return the tokenizer.json, or None if it is too large (1 MB) for the token file."""
        return self._blob if len(self._blob) <= MAX_ASSET_BYTES else None


def open_tokenizer(source: str = "auto", *, codec: str = "mimi") -> TextTokenizer:
    """Open a tokenizer.json from a file, a folder that holds one, or a hub name.

    auto is the embedded one for melrvq. For Mimi it is that of Llama 3.2, from the first of
    sesame/csm-1b, meta-llama/Llama-3.2-1B and unsloth/Llama-3.2-1B that is available; `.source`
    names it. Raises TokenizerError, or HubError when the hub cannot be reached.
    """
    if source == "auto" and codec == "melrvq":
        return TextTokenizer(EMBEDDED_TOKENIZER.read_bytes(), str(EMBEDDED_TOKENIZER))
    if source == "auto":
        return _first_from_hub()
    path = Path(source) / "tokenizer.json" if Path(source).is_dir() else Path(source)
    if path.is_file():
        return TextTokenizer(path.read_bytes(), source)
    if not hub.is_hub_name(source):
        raise TokenizerError(
            f"{path}: no such file; name a tokenizer.json, a folder that holds one, or a hub name"
            " (owner/name)"
        )
    return _from_hub(source)


def tokenizer_from_store(store: Store) -> TextTokenizer:
    """Open the tokenizer that made a token file's text, from inside the file or by its name.

    Raises TokenizerError if it has changed since. For a file without a hash (of the public trainer)
    any publisher of Llama 3.2's vocabulary will do.
    """
    blob, facts = store.asset("tokenizer"), store.info.facts
    name, wanted = facts["tokenizer"], facts["tokenizer_fingerprint"]
    if blob is not None:
        tokenizer = TextTokenizer(blob, name)
    else:
        any_publisher = name in HUB_NAMES and not wanted
        tokenizer = open_tokenizer("auto" if any_publisher else name, codec=facts["codec"])
    if wanted and tokenizer.fingerprint != wanted:
        raise TokenizerError(
            f"the tokenizer {tokenizer.source} ({tokenizer.fingerprint[:12]}) is not the one that"
            f" made the tokens ({wanted[:12]}); put the former tokenizer.json back, or pretokenise"
            " again (audio codes are kept)"
        )
    return tokenizer


def _full_path(source: str) -> str:
    """Return a local path as an absolute one, and a hub name unchanged."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _first_from_hub() -> TextTokenizer:
    """Return Llama 3.2's tokenizer from any of its publishers: the local cache, then the hub."""
    for name in HUB_NAMES:
        path = hub.cached(name, "tokenizer.json")
        if path is not None:
            return TextTokenizer(path.read_bytes(), name)
    for name in HUB_NAMES[:-1]:
        try:
            return _from_hub(name)
        except GatedError:
            continue
    return _from_hub(HUB_NAMES[-1])


def _from_hub(name: str) -> TextTokenizer:
    otherwise = "name another source: unsloth/Llama-3.2-1B, or a local tokenizer.json"
    path = hub.fetch(name, "tokenizer.json", otherwise=otherwise)
    return TextTokenizer(path.read_bytes(), name)
