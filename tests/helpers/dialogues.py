"""Small stereo dialogues of tones, with the words that they stand for, as kyutai's trainer reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 16000
WORDS = "hello how are you today i am fine thanks and what about the weather it is nice".split()


def write_dialogues(folder: Path, name: str, count: int, seed: int = 0) -> Path:
    """Write `count` dialogues of 6 to 12 s below `folder`, and the list of them, name.jsonl."""
    random = np.random.default_rng([seed, *name.encode()])
    sounds = folder / name
    sounds.mkdir(parents=True)
    rows = []
    for number in range(count):
        seconds = 6 + 2 * (number % 4)
        wave, words = dialogue(random, seconds)
        soundfile.write(sounds / f"{number}.wav", wave, RATE_HZ)
        (sounds / f"{number}.json").write_text(json.dumps({"alignments": words}))
        rows.append({"path": f"{name}/{number}.wav", "duration": seconds})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def dialogue(random: np.random.Generator, seconds: int) -> tuple[np.ndarray, list[Any]]:
    """Return the sound [N, 2] of a dialogue, and its words in kyutai's form."""
    wave = 1e-3 * random.standard_normal((seconds * RATE_HZ, 2))
    words, time, side = [], 0.3, 0
    while time < seconds - 1:
        for word in random.choice(WORDS, 3):
            length = 0.12 + 0.05 * len(word)
            if time + length > seconds - 0.2:
                break
            start, size = int(time * RATE_HZ), int(length * RATE_HZ)
            phase = 2 * np.pi * (200 + 80 * side + 20 * len(word)) * np.arange(size) / RATE_HZ
            wave[start : start + size, side] += 0.3 * np.sin(phase) * np.hanning(size)
            speaker = ("SPEAKER_MAIN", "SPEAKER_OTHER")[side]
            words.append([str(word), [round(time, 3), round(time + length, 3)], speaker])
            time += length + 0.05
        side, time = 1 - side, time + 0.3
    return wave.astype(np.float32), words
