"""Moonshine's encoder: sound as 16-bit samples, text as tokens that end with </s>.

There is no codec: the model's own convolutions are trained, so the token file keeps the sound.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from csm_ft import hub
from csm_ft.data.audio import Wave
from csm_ft.data.rows import Row
from csm_ft.data.split import ArrayKind, Arrays, Store
from csm_ft.data.text import set_case
from csm_ft.data.token_file import is_token_file, open_store
from csm_ft.errors import TokenizerError
from csm_ft.families.encoder import Encoder, Segment
from csm_ft.families.moonshine.arrange import SEGMENTS
from csm_ft.families.moonshine.config import MoonshinePretokenizeConfig
from csm_ft.families.moonshine.size import (
    DEFAULT_TOKENS_PER_SEC,
    END,
    MIN_SAMPLES,
    SAMPLE_RATE_HZ,
    START,
)

HUB_NAME = "UsefulSensors/moonshine-tiny"
FITTED = "fitted"  # facts["tokenizer"] of one that only the token file holds
_SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2
_PEAK_EPS = 1e-8


class MoonshineEncoder(Encoder):
    """16 kHz samples and a tokenizer; a clip keeps `samples` [N] and `text_tokens` [L]."""

    arrays: Mapping[str, ArrayKind] = {
        "samples": ArrayKind("<i2"),
        "text_tokens": ArrayKind("<u4"),
    }
    sample_rate_hz = SAMPLE_RATE_HZ
    frame_sec = 1 / SAMPLE_RATE_HZ
    max_tokens_per_sec: float = DEFAULT_TOKENS_PER_SEC  # of transcripts

    def __init__(
        self,
        tokenizer: "TextTokenizer | None",
        *,
        amplitude: str,
        text_case: str,
        max_gap_sec: float = 0.0,
        keep_audio: str = "copy",
    ) -> None:
        self.amplitude, self.text_case, self.max_gap_sec = amplitude, text_case, max_gap_sec
        self.referenced = "samples" if keep_audio == "reference" else ""
        if max_gap_sec:
            self.arrays = {**self.arrays, SEGMENTS: ArrayKind("<u4", 4)}
        self.audio_fingerprint = f"samples-16khz-{amplitude}-1"
        self._fitted_size, self._max_sec = 0, 0.0
        if tokenizer is not None:
            self._use(tokenizer)

    @classmethod
    def from_options(cls, options: MoonshinePretokenizeConfig) -> "MoonshineEncoder":
        """Open what the options of pretokenize.py name."""
        tokenizer = None if options.fit_tokenizer else open_tokenizer(options.tokenizer)
        encoder = cls(
            tokenizer,
            amplitude=options.amplitude,
            text_case=options.text_case,
            max_gap_sec=options.stretch_gap_sec,
            keep_audio=options.keep_audio,
        )
        encoder._fitted_size, encoder._max_sec = options.fit_tokenizer, options.max_sec
        return encoder

    @classmethod
    def from_store(cls, store: Store) -> "MoonshineEncoder":
        """Open what made a token file."""
        facts, blob = store.info.facts, store.asset("tokenizer")
        missing = [name for name in ("tokenizer", "amplitude", "text_case") if name not in facts]
        if blob is None or missing:
            what = ", ".join(missing) or "tokenizer"
            raise TokenizerError(
                f"{store.path}: holds no {what}; pretokenise again, or export the run again"
            )
        tokenizer = TextTokenizer(blob, str(facts["tokenizer"]))
        return cls(tokenizer, amplitude=facts["amplitude"], text_case=facts["text_case"])

    def _use(self, tokenizer: "TextTokenizer") -> None:
        self.tokenizer = tokenizer
        self.text_fingerprint = f"{tokenizer.fingerprint[:32]}-{self.text_case}"
        stretches = {"stretch_gap_sec": self.max_gap_sec} if self.max_gap_sec else {}
        self.facts = {
            "tokenizer": tokenizer.source,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "text_vocab_size": tokenizer.vocab_size,
            "text_case": self.text_case,
            "amplitude": self.amplitude,
            **stretches,
        }
        self.assets = {"tokenizer": tokenizer.blob}

    def fit_text(self, rows: Sequence[Row]) -> None:
        """Fit a tokenizer on the training texts, if --fit_tokenizer asks for one."""
        if self._fitted_size:
            cased = [set_case(row.text, self.text_case) for row in rows]
            self._use(fit_tokenizer(cased, self._fitted_size))

    def encode_audio(self, waves: Sequence[Wave]) -> list[Arrays | str]:
        """Return the samples of each wave, [N] int16."""
        return [{"samples": to_int16(wave, self.amplitude)} for wave in waves]

    def reader(self) -> Callable[[Wave], NDArray[np.int16]]:
        """Return what makes the samples of a wave."""
        return partial(to_int16, amplitude=self.amplitude)

    def encode_text(self, row: Row) -> Arrays:
        """Return the tokens of a row and </s>, [L]."""
        return {"text_tokens": self.tokenizer.encode(set_case(row.text, self.text_case))}

    def join_text(self, segments: Sequence[Segment]) -> Arrays:
        """Return the tokens of all rows [L], each with its </s>, and where each row lies [S, 4].

        A row of `segments` is start and stop in samples, and start and stop in tokens.
        """
        tokens = [segment.text["text_tokens"] for segment in segments]
        ends = np.cumsum([0, *map(len, tokens)])
        places = [
            (segment.start, segment.stop, ends[number], ends[number + 1])
            for number, segment in enumerate(segments)
        ]
        return {"text_tokens": np.concatenate(tokens), SEGMENTS: np.array(places, np.uint32)}

    def rejects(self, row: Row, lengths: Mapping[str, int]) -> str:
        """Return why a clip is too short or too long, or has no text, or "".

        A stretch may be of any length; each of its rows was asked for before.
        """
        num_samples = lengths["samples"]
        if num_samples < MIN_SAMPLES:
            return (
                f"{num_samples} samples are fewer than the {MIN_SAMPLES} that the model needs for"
                " one frame; drop the row"
            )
        seconds = num_samples / SAMPLE_RATE_HZ
        if self._max_sec and SEGMENTS not in lengths and seconds > self._max_sec:
            return (
                f"{seconds:.1f} s are more than --max_sec {self._max_sec:g}; cut the clip into"
                " shorter ones, at pauses"
            )
        if lengths["text_tokens"] < 2:
            return "the text has no token; fill it in or drop the row"
        return ""

    def decode(self, arrays: Arrays) -> Wave | None:
        """Return the sound of a clip, [N]; None for a transcript."""
        samples = arrays.get("samples")
        return None if samples is None else samples.astype(np.float32) / np.float32(32768)

    def describe(self) -> list[str]:
        """Return lines that name the tokenizer, case and amplitude."""
        return [
            f"text by {self.tokenizer.source} ({self.tokenizer.vocab_size} ids), case"
            f" {self.text_case}; amplitude {self.amplitude}"
        ]


def to_int16(wave: Wave, amplitude: str) -> NDArray[np.int16]:
    """Return the samples of a wave [N], at its own level or, for `peak`, at full scale."""
    if amplitude == "peak":
        wave = wave / (np.abs(wave).max() + _PEAK_EPS)
    return np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)


class TextTokenizer:
    """A tokenizer.json whose ids 1 and 2 are <s> and </s>."""

    def __init__(self, blob: bytes, source: str) -> None:
        """Read the bytes of a tokenizer.json; TokenizerError if they are none for Moonshine."""
        try:
            tokenizer = Tokenizer.from_str(blob.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{source}: not a tokenizer.json of the tokenizers library ({error}); fetch it"
                " again"
            ) from error
        ends = {"<s>": START, "</s>": END}
        wrong = {name: tokenizer.token_to_id(name) for name in ends}
        if wrong != ends:
            raise TokenizerError(
                f"{source}: has {wrong}, Moonshine wants {ends}; give a tokenizer of Moonshine, or"
                " --fit_tokenizer"
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # their names in a transcript are plain text
        self.blob, self.source = blob, source
        self.fingerprint = hashlib.sha256(blob).hexdigest()
        ids = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(ids.values())
        self._ids = ids
        self._tokenizer = tokenizer

    @property
    def vocabulary(self) -> str:
        """Name of what each id means: the same for one tokenizer, however its file was written."""
        return hashlib.sha256(json.dumps(sorted(self._ids.items())).encode()).hexdigest()

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the tokens of a text and </s>, [L]."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([*ids, END], dtype=np.uint32)

    def piece(self, token: int) -> str:
        """Return how the tokenizer writes one id, "" for an id that it leaves out."""
        return self._tokenizer.id_to_token(token) or ""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).strip()


def open_tokenizer(source: str) -> TextTokenizer:
    """Open a tokenizer.json from a file, a folder that holds one, or a hub name; auto = tiny's.

    Or the one that a token file holds. TokenizerError where there is none.
    """
    source = HUB_NAME if source == "auto" else source
    if is_token_file(Path(source)):
        return MoonshineEncoder.from_store(open_store(Path(source), in_memory=False)).tokenizer
    path = Path(source) / "tokenizer.json" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        if not hub.is_hub_name(source):
            raise TokenizerError(
                f"{path}: no such file; name a tokenizer.json, a folder that holds one, a hub name"
                " (owner/name), or for a run its token file (data in its config.yaml)"
            )
        otherwise = "name a local tokenizer.json, or fit one with --fit_tokenizer 8192"
        path = hub.fetch(source, "tokenizer.json", otherwise=otherwise)
    return TextTokenizer(path.read_bytes(), source)


def fit_tokenizer(texts: Sequence[str], vocab_size: int) -> TextTokenizer:
    """Fit a byte-fallback BPE of at most `vocab_size` ids; the same texts give the same one."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),  # the one that Metaspace puts in front
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL, *byte_tokens],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer marks the byte tokens as special, which would leave them out of decoded text.
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [
        token for token in values["added_tokens"] if token["content"] in _SPECIAL
    ]
    return TextTokenizer(json.dumps(values, ensure_ascii=False).encode(), FITTED)
