"""The moonshine-voice package as the reader of an export.

The package is not a dependency: its wheels need glibc 2.34, and it opens sound devices.
"""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.errors import CheckError, first_line
from csm_ft.families.moonshine.size import SAMPLE_RATE_HZ

PIECE_SAMPLES = 1280  # that the runtime gives its frontend at once
_HOP_SAMPLES = 512  # of its voice activity detector
NOT_CHECKED = (
    "moonshine-voice did not check this export, only onnxruntime: install it with `pip install"
    " --require-hashes --no-deps -r requirements-moonshine.txt`, and export again"
)


def is_installed() -> bool:
    """Tell whether the package can be imported."""
    return find_spec("moonshine_voice") is not None


def heard(num_samples: int) -> int:
    """Return how many samples of a recording the runtime hears: whole hops, of those whole pieces.

    What is left over at the end of a line it leaves out.
    """
    whole = num_samples - num_samples % (2 * PIECE_SAMPLES)
    assert whole % _HOP_SAMPLES == 0
    return whole


def text_of(
    folder: Path, clip: NDArray[np.int16], max_tokens_per_sec: float, every_sec: float = 1000.0
) -> str:
    """Return the runtime's text of samples [n], as one line; CheckError if it cannot load `folder`.

    `every_sec`: how often it transcribes while it listens; by default only at the end.
    """
    voice: Any = import_module("moonshine_voice.transcriber")
    options = {
        "vad_threshold": 0,  # everything is speech
        "vad_max_segment_duration": 1000,
        "max_tokens_per_second": max_tokens_per_sec,
    }
    try:
        with voice.Transcriber(folder, voice.ModelArch.TINY_STREAMING, options=options) as reader:
            stream = reader.create_stream(update_interval=every_sec)
            stream.start()
            sound = (clip.astype(np.float32) / np.float32(32768)).tolist()
            step = round(min(every_sec, len(sound) / SAMPLE_RATE_HZ) * SAMPLE_RATE_HZ)
            for start in range(0, len(sound), step):
                stream.add_audio(sound[start : start + step], SAMPLE_RATE_HZ)
            stream.stop()
            lines = stream.update_transcription().lines
            stream.close()
    except voice.MoonshineError as error:
        raise CheckError(
            f"moonshine-voice cannot read the export ({first_line(error)}); nothing was kept"
        ) from error
    return " ".join(line.text.strip() for line in lines)


def printable(text: str) -> str:
    """Return a text with one ? for bytes that are no UTF-8, which both programs write otherwise."""
    return re.sub("[?\ufffd]+", "?", text) if "\ufffd" in text or "?" in text else text
