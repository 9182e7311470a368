"""Watermarks as Sesame applies them: silentcipher at 44.1 kHz, 36 dB below the speech.

The package is no requirement: its pins exclude current torch. Its weights come from the hub.
"""

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from csm_ft.data.audio import Wave, resample
from csm_ft.errors import ConfigError, HubError, first_line

KEY_VARIABLE = "CSM_WATERMARK_KEY"
PUBLIC_KEY = (212, 211, 146, 56, 201)  # Sesame's own, which everybody knows
_RATE_HZ = 44_100
_MODEL = "44.1k"
_MESSAGE_SDR_DB = 36
_KEY_NUMBERS = 5
_INSTALL = "pip install --no-deps silentcipher==1.0.5 && pip install librosa pydub"


class Watermark:
    """Writes and finds one key. ConfigError without the package, HubError without its weights."""

    def __init__(self, key: Sequence[int]) -> None:
        self._key = list(key)
        self._model = _open_model()

    def apply(self, wave: Wave, sample_rate_hz: int) -> Wave:
        """Return the wave with the key in it, at the same rate and of the same length.

        [N], or [2, N]: then the left channel, which answers, is marked.
        """
        if wave.ndim == 2:
            return np.stack([self.apply(wave[0], sample_rate_hz), wave[1]])
        at_44_khz = resample(wave, sample_rate_hz, _RATE_HZ)
        marked, _ = self._model.encode_wav(
            at_44_khz, _RATE_HZ, self._key, calc_sdr=False, message_sdr=_MESSAGE_SDR_DB
        )
        back = resample(np.asarray(marked, np.float32), _RATE_HZ, sample_rate_hz)
        kept = np.zeros_like(wave)
        kept[: len(back)] = back[: len(wave)]
        return kept

    def is_in(self, wave: Wave, sample_rate_hz: int) -> bool:
        """Tell whether a wave [N] holds the key; it is searched at any offset."""
        at_44_khz = resample(wave, sample_rate_hz, _RATE_HZ)
        found = self._model.decode_wav(at_44_khz, _RATE_HZ, phase_shift_decoding=True)
        return bool(found["status"]) and list(found["messages"][0]) == self._key


def key_of_environment() -> tuple[int, ...]:
    """Return the key of the variable CSM_WATERMARK_KEY, or else Sesame's public one.

    ConfigError for anything but five numbers from 0 to 255; the value is never shown.
    """
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if not text:
        return PUBLIC_KEY
    words = text.replace(",", " ").split()
    numbers = tuple(int(word) for word in words if word.isdecimal())
    if len(numbers) != len(words) or len(words) != _KEY_NUMBERS or max(numbers) > 255:
        raise ConfigError(
            f"{KEY_VARIABLE} is not {_KEY_NUMBERS} numbers from 0 to 255; write it like"
            " 17,42,250,3,99, or leave it out for Sesame's public key"
        )
    return numbers


def _open_model() -> Any:
    try:
        package = importlib.import_module("silentcipher")
    except ImportError as error:
        raise ConfigError(
            f"watermarks need the package silentcipher ({first_line(error)}); install it with:"
            f" {_INSTALL}; or use --watermark off"
        ) from error
    try:
        return package.get_model(model_type=_MODEL)
    except OSError as error:  # of the hub, or of a file in its cache
        raise HubError(
            f"the weights of silentcipher, sony/silentcipher on the hub, cannot be fetched"
            f" ({first_line(error)}); connect once, or use --watermark off"
        ) from error
