"""The voices of the Moonshine demo, and what they say: commands of a small vocabulary.

A voice is one of espeak-ng's variants with its own pitch and speed. The same sentences in the same
voices give the same sound.
"""

import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Wave = NDArray[np.float32]
SAMPLE_RATE_HZ = 16000
LEVEL = 0.07  # root mean square of every clip
NUMBERS = "one two three four five six seven eight nine ten".split()
COLOURS = "red blue green yellow white black".split()
ROOMS = "kitchen garden bedroom".split()
NAMES = "anna peter mother".split()
THINGS = "door window box".split()


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker."""

    speaker: str
    variant: str  # of espeak-ng, with its dialect
    words_per_min: int
    pitch: int  # 0-99
    varies: int = 8  # clip by clip, of pitch; twice as much of words per minute


# What the base hears. Several of each sex, so that it learns words and not one voice.
BASE_VOICES = (
    Voice("adam", "en-us+m1", 165, 40),
    Voice("carl", "en-us+m3", 175, 50),
    Voice("dean", "en-us+m7", 160, 45),
    Voice("ella", "en-us+f1", 170, 50),
    Voice("fay", "en-us+f3", 165, 60),
    Voice("gina", "en-us+f4", 175, 45),
)
# What the demo teaches: another dialect, higher and faster than all of them.
NEW_VOICE = Voice("hope", "en-gb-x-rp+f5", 195, 75, varies=2)


def sentence(dice: random.Random) -> str:
    """Return a command; every third one is words in no order, which cannot be guessed."""
    if dice.random() < 1 / 3:
        return " ".join(dice.choices(WORDS, k=dice.randint(3, 6)))
    number, colour, room = dice.choice(NUMBERS), dice.choice(COLOURS), dice.choice(ROOMS)
    other, name, thing = dice.choice(NUMBERS), dice.choice(NAMES), dice.choice(THINGS)
    return dice.choice(
        (
            f"turn {dice.choice(('on', 'off'))} the {colour} lamp in the {room}",
            f"set a timer for {number} minutes",
            f"move {number} {colour} boxes to the {dice.choice(('left', 'right'))}",
            f"play song number {number} {other}",
            f"call {name} at {number} {other}",
            f"{dice.choice(('open', 'close'))} the {colour} {thing} in the {room}",
        )
    )


WORDS = sorted(
    {*NUMBERS, *COLOURS, *ROOMS, *NAMES, *THINGS}
    | set("turn on off the lamp in set a timer for minutes move boxes to left right".split())
    | set("play song number call at open close".split())
)


def sentences(count: int, name: str, without: Sequence[str] = ()) -> list[str]:
    """Return different sentences, always the same for a name, none of those in `without`."""
    dice = random.Random(name)  # noqa: S311 - reproducible, not secret
    known, found = set(without), list[str]()
    while len(found) < count:
        text = sentence(dice)
        if text not in known:
            known.add(text)
            found.append(text)
    return found


def say(text: str, voice: Voice, dice: random.Random) -> Wave:
    """Return a sentence as espeak-ng says it, 16 kHz mono, its level normalised."""
    pitch = voice.pitch + dice.randint(-voice.varies, voice.varies)
    speed = voice.words_per_min + 2 * dice.randint(-voice.varies, voice.varies)
    command = ["espeak-ng", "-v", voice.variant, "-s", str(speed), "-p", str(pitch)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        subprocess.run([*command, "-w", str(path), "--", text], check=True)
        wave, rate_hz = soundfile.read(path, dtype="float32")
    wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)
    return wave * (LEVEL / np.sqrt(np.mean(wave**2)))
