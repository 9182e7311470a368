"""Moshi's encoder: both channels of a dialogue by a codec, and words with their times.

A clip keeps `codes` [T, 2K], those of the left channel first, `words` [W, 4] (start and end in
seconds, speaker 0 or 1, number of tokens) and `text_tokens` [L], those of all words one after
another. The text stream of the model is made of these when examples are, so that another rule
encodes no sound again. What --text_template puts before the text, such as <angry>, is a word of the
left speaker at the start of the clip.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csm_ft import codecs
from csm_ft.codecs.base import Codec, Wave
from csm_ft.data.rows import Row, Word
from csm_ft.data.split import ArrayKind, Arrays, Store
from csm_ft.datasets.words import WordLists
from csm_ft.errors import DataError, TokenizerError
from csm_ft.families.base import Sample
from csm_ft.families.encoder import Caption, Encoder
from csm_ft.families.moshi import turns
from csm_ft.families.moshi.captions import read_captions
from csm_ft.families.moshi.config import (
    MIMI_CARD,
    SILENT_USER,
    TEXT_ALONE,
    MoshiPretokenizeConfig,
)
from csm_ft.families.moshi.interleave import Rule
from csm_ft.families.moshi.size import HOLE
from csm_ft.families.moshi.tokenizer import (
    FITTED,
    TextTokenizer,
    fit_tokenizer,
    open_tokenizer,
)
from csm_ft.families.template import TextTemplate

TOKENIZER_ASSET = "tokenizer.model"
_MILLISECONDS = 50.0  # times so many times past the end of the sound are no seconds
_PAST_END_SEC = 0.5  # that the last word may begin after the sound, as recognisers have it
_SETTINGS = (
    *("interleave", "text_padding_id", "end_of_text_padding_id"),
    "no_whitespace_before_word",
)
# What token files of earlier versions do not say.
_NEW_SETTINGS: Mapping[str, str | float] = {
    "text_template": TEXT_ALONE,
    "mono": "reject",
    "lead_sec": 0.0,
    "text_delay_sec": 0.0,
}
_LEFT = 0


class MoshiEncoder(Encoder):
    """A codec and a tokenizer."""

    channels = "both"
    mono_hint = (
        "record each speaker on a channel of its own, or give Moshi's voice a silent user with"
        " --mono silent_user"
    )

    def __init__(
        self,
        codec: Codec,
        tokenizer: TextTokenizer | None,
        settings: Mapping[str, str | int | float],
    ) -> None:
        """Take `settings` of how words become tokens: the options of these names."""
        self.codec, self._settings = codec, {**_NEW_SETTINGS, **settings}
        self.template = TextTemplate(str(self._settings["text_template"]))
        self.columns = self.template.columns
        self._fitted_size = 0
        self.sample_rate_hz = codec.sample_rate_hz
        self.frame_sec = codec.frame_samples / codec.sample_rate_hz
        self._lead_sec = float(self._settings["lead_sec"])
        lead = f" after {self._lead_sec:g} s" if self._lead_sec else ""
        self.audio_fingerprint = f"both {codec.fingerprint}{lead}"
        self.arrays = {
            "codes": ArrayKind("<u2", 2 * codec.num_codebooks),
            "words": ArrayKind("<f8", 4),
            "text_tokens": ArrayKind("<u4"),
        }
        self._codec_source = _full_path(codec.source)
        if tokenizer is not None:
            self._use(tokenizer)

    @classmethod
    def from_options(cls, options: MoshiPretokenizeConfig, device: str) -> "MoshiEncoder":
        """Open what the options of pretokenize.py name."""
        tokenizer = None if options.fit_tokenizer else open_tokenizer(options.tokenizer)
        codec = codecs.open_codec(
            options.codec,
            options.codec_source,
            num_codebooks=options.num_codebooks,
            device=device,
        )
        settings = {name: getattr(options, name) for name in (*_SETTINGS, *_NEW_SETTINGS)}
        encoder = cls(codec, tokenizer, settings)
        encoder._fitted_size = options.fit_tokenizer
        encoder.fills_channels = options.mono == SILENT_USER
        folder = Path(options.words_folder) if options.words_folder else None
        # A file of one speaker says by itself whose text it is.
        encoder.word_lists = WordLists(folder, are_needed=options.mono != SILENT_USER)
        return encoder

    @classmethod
    def from_store(cls, store: Store, device: str) -> "MoshiEncoder":
        """Open what made a token file; EncoderError if it has changed since."""
        facts, blob = store.info.facts, store.asset(TOKENIZER_ASSET)
        if blob is None:
            raise TokenizerError(f"{store.path}: holds no tokenizer; pretokenise again")
        codec = codecs.from_facts(facts, store.asset("codec"), device)
        tokenizer = TextTokenizer(blob, str(facts["tokenizer"]))
        settings = {name: facts[name] for name in _SETTINGS}
        settings |= {name: facts[name] for name in _NEW_SETTINGS if name in facts}
        encoder = cls(codec, tokenizer, settings)
        encoder._codec_source = facts["codec_source"]
        encoder._use(tokenizer)
        return encoder

    def _use(self, tokenizer: TextTokenizer) -> None:
        ids = [int(self._settings[name]) for name in _SETTINGS[1:3]]
        if max(ids) >= tokenizer.vocab_size:
            raise TokenizerError(
                f"{tokenizer.source} has {tokenizer.vocab_size} ids, so padding ids {ids} are none;"
                " give --text_padding_id and --end_of_text_padding_id of this tokenizer"
            )
        self.tokenizer = tokenizer
        settings = "-".join(str(self._settings[name]) for name in _SETTINGS)
        for name in ("text_template", "lead_sec", "text_delay_sec"):
            is_old = self._settings[name] == _NEW_SETTINGS[name]
            settings += "" if is_old else f"-{self._settings[name]}"
        self.text_fingerprint = f"{tokenizer.fingerprint[:32]}-{settings}"
        codec = self.codec
        self.facts = {
            "codec": codec.name,
            "codec_source": self._codec_source,
            "codec_fingerprint": codec.fingerprint,
            "num_codebooks": codec.num_codebooks,
            "card": MIMI_CARD if codec.name == "mimi" else codec.vocab_size,
            "sample_rate_hz": codec.sample_rate_hz,
            "frame_samples": codec.frame_samples,
            "frame_sec": self.frame_sec,
            "tokenizer": _full_path(tokenizer.source),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "text_vocab_size": tokenizer.vocab_size,
            **self._settings,
        }
        blobs = {"codec": codec.to_bytes(), TOKENIZER_ASSET: tokenizer.blob}
        self.assets = {name: blob for name, blob in blobs.items() if blob is not None}

    @property
    def rule(self) -> Rule:
        """How words are laid over frames."""
        rule: Rule = self._settings["interleave"]  # pyright: ignore[reportAssignmentType]
        return rule

    @property
    def padding_id(self) -> int:
        """Text id where nothing is said."""
        return int(self._settings["text_padding_id"])

    @property
    def silent_ids(self) -> list[int]:
        """Text ids that are no text: padding, and the end of it."""
        return [self.padding_id, int(self._settings["end_of_text_padding_id"])]

    def fit_text(self, rows: Sequence[Row]) -> None:
        """Fit a tokenizer on the training texts, if --fit_tokenizer asks for one."""
        if self._fitted_size:
            template = self.template
            texts = [template.render(row.text, row.speaker or "", row.tags) for row in rows]
            self._use(fit_tokenizer(texts, self._fitted_size))

    def encode_audio(self, waves: Sequence[Wave]) -> list[Arrays | str]:
        """Encode waves [2, N] to codes [ceil(N / frame_samples), 2K], each channel by itself.

        With --lead_sec there are codes of that silence before them.
        """
        lead = round(self._lead_sec * self.sample_rate_hz)
        sides = [np.pad(side, (lead, 0)) for wave in waves for side in wave]
        codes = self.codec.encode(sides)
        encoded: list[Arrays | str] = []
        for wave, left, right in zip(waves, codes[::2], codes[1::2], strict=True):
            if wave.any() and np.array_equal(*wave):
                encoded.append(
                    f"both channels hold the same sound; {self.mono_hint}, from mono files"
                )
            else:
                encoded.append({"codes": np.concatenate([left, right], axis=1)})
        return encoded

    def encode_text(self, row: Row) -> Arrays | str:
        """Return the words of a row and their tokens; with `characters`, a row for each piece."""
        reason = self.template.problem(row.tags)
        if reason:
            return reason
        start_sec = row.start_sec or 0.0
        words = sorted(_words_in(row), key=lambda word: word.start_sec)
        if not words:
            return "no word begins in its span; drop the row, or fix the span"
        start_sec -= self._lead_sec
        words = self._in_template(row, self._delayed(words, start_sec), start_sec)
        timed: list[tuple[Word, list[int]]] = []
        if self.rule == "characters":
            for speaker in (0, 1):
                timed += self._pieces([word for word in words if word.speaker == speaker])
            timed.sort(key=lambda one: one[0].start_sec)
        else:
            timed = [(word, self.tokenizer.encode(word.text.strip())) for word in words]
        table = [
            (word.start_sec - start_sec, word.end_sec - start_sec, word.speaker, len(ids))
            for word, ids in timed
        ]
        tokens = [token for _, ids in timed for token in ids]
        return {
            "words": np.array(table, dtype=np.float64).reshape(-1, 4),
            "text_tokens": np.array(tokens, dtype=np.uint32),
        }

    def script(self, text: str, speaker: str, tags: Mapping[str, str]) -> list[list[int]]:
        """Return the words of a text to be spoken, with those of the template, as tokens.

        With the rule `characters` every piece is a word, as each has a time of its own.
        """
        before, after = self.template.around(speaker, tags)
        words = [word for word in (before.strip(), *text.split(), after.strip()) if word]
        if self.rule == "characters":
            joint = "" if self._settings["no_whitespace_before_word"] else " "
            return [[id_] for id_, _ in self.tokenizer.pieces(joint.join(words))]
        return [self.tokenizer.encode(word) for word in words]

    def _delayed(self, words: Sequence[Word], start_sec: float) -> list[Word]:
        """Return words at the times of their text, none before the start of the clip."""
        delay_sec = float(self._settings["text_delay_sec"])
        delayed: list[Word] = []
        for word in words:
            own_sec = max(delay_sec, start_sec - word.start_sec) if delay_sec else 0.0
            times_sec = (word.start_sec + own_sec, word.end_sec + own_sec)
            delayed.append(Word(word.text, *times_sec, word.speaker))
        return delayed

    def _in_template(self, row: Row, words: Sequence[Word], start_sec: float) -> list[Word]:
        """Return words with what the template puts before and behind them, said by the left."""
        before, after = self.template.around(row.speaker or "", row.tags)
        end_sec = words[-1].end_sec
        around = [
            Word(before.strip(), start_sec, start_sec + self.frame_sec, _LEFT),
            *words,
            Word(after.strip(), end_sec, end_sec + self.frame_sec, _LEFT),
        ]
        return [word for word in around if word.text]

    def _pieces(self, words: Sequence[Word]) -> list[tuple[Word, list[int]]]:
        """Return each piece of what one speaker says, with the time of its first letter."""
        joint = "" if self._settings["no_whitespace_before_word"] else " "
        starts_sec: list[float] = []  # of every letter
        for number, word in enumerate(words):
            # The blank before a word is a part of it, and has a share of its time.
            letters = (joint if number else "") + word.text
            share_sec = (word.end_sec - word.start_sec) / max(1, len(letters))
            starts_sec += [word.start_sec + share_sec * i for i in range(len(letters))]
        if not starts_sec:
            return []
        text = joint.join(word.text for word in words)
        speaker = words[0].speaker
        return [
            (Word("", starts_sec[place], starts_sec[place], speaker), [id_])
            for id_, place in self.tokenizer.pieces(text)
        ]

    def rejects(self, row: Row, lengths: Mapping[str, int]) -> str:
        """Return which word lies past the end of the sound, or ""."""
        end_sec = (row.start_sec or 0.0) + lengths["codes"] * self.frame_sec
        if row.end_sec is not None and row.start_sec is not None:
            return ""  # a part of a longer recording, whose words were chosen by it
        # One that begins in the sound may end past it: recordings are cut within words.
        last = max(row.words, key=lambda word: word.start_sec, default=None)
        if last is None or last.start_sec <= end_sec + _PAST_END_SEC:
            return ""
        hint = "are the times in milliseconds? Write seconds"
        if last.start_sec < _MILLISECONDS * end_sec:
            hint = "fix the times, or name the right sound"
        return (
            f"the word {last.text!r} begins at {last.start_sec:g} s, past the sound"
            f" ({end_sec:.2f} s); {hint}"
        )

    def decode(self, arrays: Arrays) -> Wave:
        """Return the sound of both speakers, [2, N]."""
        codes = arrays["codes"]
        half = codes.shape[1] // 2
        sides = [
            self.codec.decode(np.ascontiguousarray(c)) for c in (codes[:, :half], codes[:, half:])
        ]
        return np.stack(sides)

    def tokens_of(self, sample: Sample) -> NDArray[np.int64] | None:
        """Return text, Moshi's codes and the user's, [1 + 2K, T], behind the prompt: J-Moshi's."""
        codes, text = sample.arrays["codes"], sample.arrays["text"]
        is_generated = sample.prompt.arrays["tokens"][0] == HOLE
        start = int(np.argmax(is_generated))
        rows = np.concatenate([text[None, : len(codes)], codes.T.astype(np.int64)])
        return rows[:, start:]

    def arrays_of(self, tokens: NDArray[np.int64]) -> Arrays:
        """Return the codes of such tokens, [T, 2K]."""
        width, card = 2 * self.codec.num_codebooks, int(self.facts["card"])
        if len(tokens) != 1 + width:
            raise DataError(
                f"has {len(tokens)} rows of tokens; a dialogue of this codec has {1 + width}: text"
                f" and {width} codebooks"
            )
        codes = tokens[1:]
        if codes.size and not 0 <= codes.min() <= codes.max() < card:
            raise DataError(f"has codes from {codes.min()} to {codes.max()}, not 0 to {card - 1}")
        return {"codes": codes.T.astype(np.uint16)}

    def measure(self, sample: Sample, wave: Wave) -> Mapping[str, float]:
        """Measure turns behind the prompt, and how fast words are written there."""
        start_sec = self.prompt_sec(sample)
        wave = wave[:, round(start_sec * self.sample_rate_hz) :]
        words = [word for word in self.captions(sample) if word.start_sec >= start_sec]
        seconds = max(self.frame_sec, wave.shape[1] / self.sample_rate_hz)
        return {**turns.measure(wave, self.sample_rate_hz), "words_per_sec": len(words) / seconds}

    def prompt_sec(self, sample: Sample) -> float:
        """Return the seconds that Moshi's side was given for."""
        is_generated = sample.prompt.arrays["tokens"][0] == HOLE
        return float(np.argmax(is_generated)) * self.frame_sec

    def captions(self, sample: Sample) -> Sequence[Caption]:
        """Return Moshi's words."""
        text = sample.arrays["text"][: len(sample.arrays["codes"])]
        delay_sec = float(self._settings["text_delay_sec"])
        return read_captions(text, self.tokenizer, self.silent_ids, self.frame_sec, delay_sec)

    def said(self, sample: Sample, wave: Wave) -> tuple[str, Wave]:
        """Return what is written behind the prompt, and Moshi's sound there."""
        start_sec = self.prompt_sec(sample)
        text = sample.arrays["text"][round(start_sec / self.frame_sec) :]
        return self.text_of(text), wave[0, round(start_sec * self.sample_rate_hz) :]

    def text_of(self, ids: Sequence[int] | NDArray[np.int64]) -> str:
        """Return what is written in a text stream, without its paddings."""
        return self.tokenizer.decode([int(i) for i in ids if int(i) not in self.silent_ids])

    def describe(self) -> list[str]:
        """Return lines that name codec, tokenizer and rule."""
        codec = self.codec
        return [
            f"codec {codec.name} ({codec.source}), {codec.num_codebooks} codebooks per channel",
            f"text by {self.tokenizer.source} ({self.tokenizer.vocab_size} ids), laid over frames"
            f" by the rule {self.rule}",
        ]


def _words_in(row: Row) -> list[Word]:
    """Return the words that begin in the span of a row."""
    start_sec, end_sec = row.start_sec or 0.0, row.end_sec
    return [
        word
        for word in row.words
        if start_sec <= word.start_sec and (end_sec is None or word.start_sec < end_sec)
    ]


def _full_path(source: str) -> str:
    """Return a local path as an absolute one, and other names unchanged."""
    is_local = source != FITTED and Path(source).exists()
    return str(Path(source).resolve()) if is_local else source
