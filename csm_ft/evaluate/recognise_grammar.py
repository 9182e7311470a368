"""pocketsphinx: English, without a download.

pocketsphinx        which of the texts that are judged was said?
pocketsphinx:FILE   a JSGF grammar (.gram, .jsgf); or a text file: one of its lines is said or,
                    where each line is one word, any sequence of them
pocketsphinx:en-us  any words, with their times, by the language model of the wheel: weak
"""

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from csm_ft.data.audio import Wave
from csm_ft.data.text import normalise
from csm_ft.errors import ConfigError
from csm_ft.evaluate.recognise import Heard, Word
from csm_ft.text_file import read_text

LANGUAGES = ("en",)  # of the model in the wheel
_INSTALL = "pip install --no-deps pocketsphinx==5.1.1"
LANGUAGE_MODEL = "en-us"
_JSGF = (".gram", ".jsgf")
_HZ = 16000
_FRAMES_PER_SEC = 100  # of the decoder
_VARIANT = re.compile(r"\(\d+\)$")  # of a pronunciation: read(2)
_PAD_SEC = 0.1  # of silence at both ends, as the decoder expects some


class GrammarRecogniser:
    """The decoder of pocketsphinx, with the acoustic model and the dictionary of its wheel."""

    languages: tuple[str, ...] = LANGUAGES

    def __init__(self, path: str = "") -> None:
        self._decoder = _open_decoder(lm=None)
        self._has_file = bool(path)
        self._is_ready = False
        grammar = "the texts that are judged"
        if path:
            grammar = Path(path).name
            self._activate(self._read(Path(path)), f"--asr pocketsphinx:{path}")
        self.name = f"pocketsphinx {version('pocketsphinx')}, grammar: {grammar}"

    def expect(self, texts: Iterable[str]) -> None:
        """Take texts as the grammar, unless a file is; ConfigError for a word that is not known."""
        if self._has_file:
            return
        sentences = sorted({words for text in texts if (words := normalise(text))})
        if sentences:
            source = "--asr pocketsphinx"
            self._activate(self._one_of(sentences, source), source)

    def hear(self, wave: Wave) -> str:
        """Return the words of a wave [N] at 16 kHz; "" where it fits nothing of the grammar."""
        assert self._is_ready, "expect() comes first"
        _decode(self._decoder, wave)
        heard = self._decoder.hyp()
        return "" if heard is None else str(heard.hypstr).strip()

    def _read(self, path: Path) -> str:
        """Return the JSGF grammar of a file."""
        text = read_text(path, ConfigError)
        if path.suffix.lower() in _JSGF:
            return text
        lines = [words for line in text.splitlines() if (words := normalise(line))]
        source = f"--asr pocketsphinx:{path}"
        if not lines:
            raise ConfigError(f"{source}: no line has a word; write a sentence or a word a line")
        repeated = all(" " not in line for line in lines)
        return self._one_of(lines, source, repeated=repeated)

    def _one_of(self, sentences: Sequence[str], source: str, *, repeated: bool = False) -> str:
        """Return a grammar of sentences; ConfigError for words that the dictionary lacks."""
        words = dict.fromkeys(word for sentence in sentences for word in sentence.split())
        unknown = [word for word in words if self._decoder.lookup_word(word) is None]
        if unknown:
            raise ConfigError(
                f"{source}: {', '.join(map(repr, unknown[:8]))} "
                f"{'is' if len(unknown) == 1 else 'are'} not in its dictionary of English words"
                f" ({len(unknown)} of {len(words)}), so they would never be heard; write numbers as"
                " words, choose other texts, or another recogniser with --asr"
            )
        choice = f"( {' | '.join(sentences)} ){'+' if repeated else ''}"
        return f"#JSGF V1.0; grammar g; public <s> = {choice};"

    def _activate(self, grammar: str, source: str) -> None:
        try:
            self._decoder.add_jsgf_string("grammar", grammar)
        except ValueError as error:
            raise ConfigError(
                f"{source}: no grammar that pocketsphinx can use; a JSGF file begins with #JSGF"
                " V1.0; and has a public rule whose words are in its dictionary of English words"
            ) from error
        self._decoder.activate_search("grammar")
        self._is_ready = True


class SphinxRecogniser:
    """The decoder of pocketsphinx with its language model: any English words."""

    languages: tuple[str, ...] = LANGUAGES

    def __init__(self) -> None:
        self._decoder = _open_decoder()
        self.name = f"pocketsphinx {version('pocketsphinx')}, {LANGUAGE_MODEL}"

    def hear(self, wave: Wave) -> str:
        """Return the words of a wave [N] at 16 kHz."""
        return " ".join(word.text.strip() for word in self.hear_words(wave).words)

    def hear_words(self, wave: Wave) -> Heard:
        """Return the words of a wave with their times, without probabilities."""
        _decode(self._decoder, wave)
        duration_sec = len(wave) / _HZ
        words: list[Word] = []
        for segment in self._decoder.seg() or ():
            text = _VARIANT.sub("", segment.word)
            if text.startswith(("<", "[")):  # silence and noise
                continue
            times = (
                segment.start_frame / _FRAMES_PER_SEC,
                (segment.end_frame + 1) / _FRAMES_PER_SEC,
            )
            start_sec, end_sec = (min(max(0.0, time - _PAD_SEC), duration_sec) for time in times)
            words.append(Word(f" {text}", start_sec, end_sec, None))
        return Heard(words, LANGUAGES[0])


def _open_decoder(**options: Any) -> Any:
    if find_spec("pocketsphinx") is None:
        raise ConfigError(f"--asr pocketsphinx: it is not installed; {_INSTALL}")
    import pocketsphinx  # pyright: ignore[reportMissingImports]

    return pocketsphinx.Decoder(loglevel="FATAL", samprate=float(_HZ), **options)


def _decode(decoder: Any, wave: Wave) -> None:
    silence = np.zeros(round(_PAD_SEC * _HZ), dtype=np.float32)
    padded = np.clip(np.concatenate([silence, wave, silence]), -1, 1)
    decoder.start_utt()
    decoder.process_raw((padded * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
