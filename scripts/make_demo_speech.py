"""Synthesise the demo's speech with espeak-ng.

It makes the bundled clips (demo/), or a large corpus to train the embedded base on:

    # demo/speech, demo/new_voice, demo/voices
    python scripts/make_demo_speech.py
    # the other voices only; no sentence that the new voice is validated with
    python scripts/make_demo_speech.py --corpus DIR --n_clips 4000

The output is reproducible with the same version of espeak-ng. Nora is the new voice: neither the
base nor the codec is trained on her.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from demo_sentences import ENGLISH, SPANISH, Grammar
from numpy.typing import NDArray

DEMO = Path(__file__).resolve().parent.parent / "demo"
SAMPLE_RATE_HZ = 16000
LEVEL = 0.05  # root mean square of every clip
AMPLITUDE_STEPS = 2048  # 12 bits: half the FLAC bytes, noise 70 dB below the peak
SILENCE = 0.003  # amplitude below which either end of a clip is cut off
MARGIN_SEC = 0.06  # of that silence to keep


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker."""

    speaker: str
    grammar: Grammar
    espeak: str
    words_per_min: int
    pitch: int  # 0..99


NORA = Voice("nora", ENGLISH, "en-us+f2", 170, 42)
OTHERS = (
    Voice("anna", ENGLISH, "en-us+f5", 165, 50),
    Voice("ben", ENGLISH, "en-us+m1", 170, 45),
    Voice("clara", ENGLISH, "en-us+f3", 175, 55),
    Voice("david", ENGLISH, "en-us+m3", 165, 40),
    Voice("emma", ENGLISH, "en-us+f4", 170, 60),
    Voice("frank", ENGLISH, "en-us+m7", 165, 50),
    Voice("lucia", SPANISH, "es+f2", 165, 55),
    Voice("mateo", SPANISH, "es+m1", 165, 45),
    Voice("sofia", SPANISH, "es+f5", 170, 50),
    Voice("diego", SPANISH, "es+m3", 160, 40),
)


@dataclass(frozen=True)
class Clip:
    """One row of metadata."""

    path: str  # relative to the metadata file
    text: str
    speaker: str


def main() -> int:
    """Make the demo's speech, or a corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, help="make a corpus of the other voices in this folder instead"
    )
    parser.add_argument(
        "--n_clips", type=int, default=4000, help="clips of the corpus (default 4000)"
    )
    arguments = parser.parse_args()
    if arguments.corpus:
        make_corpus(arguments.corpus, arguments.n_clips)
    else:
        make_bundle()
    return 0


def dice(name: str) -> random.Random:
    """Return a generator that always draws the same for the same name."""
    return random.Random(name)  # noqa: S311 - reproducible, not secret


def nora_sentences() -> tuple[list[str], list[str]]:
    """Return 80 sentences to train on and 16 others to validate with."""
    sentences = ENGLISH.draw_new(96, dice("nora"), set())
    return sentences[:80], sentences[80:]


def make_bundle() -> None:
    """Make the committed clips: 80 + 16 of the new voice, 48 + 12 of the others."""
    taken: set[str] = set()
    train, val = nora_sentences()
    taken |= {*train, *val}
    speak(NORA, [*train, *val], DEMO / "speech")
    nora = [_clip(NORA, i, text, "../speech") for i, text in enumerate([*train, *val])]
    write_rows(DEMO / "new_voice/train.json", nora[: len(train)])
    write_rows(DEMO / "new_voice/val.json", nora[len(train) :])
    voices = [OTHERS[i] for i in (0, 1, 6, 9)]
    train_clips: list[Clip] = []
    val_clips: list[Clip] = []
    for voice in voices:
        sentences = voice.grammar.draw_new(15, dice(voice.speaker), taken)
        speak(voice, sentences, DEMO / "speech")
        clips = [_clip(voice, i, text, "../speech") for i, text in enumerate(sentences)]
        train_clips += clips[:12]
        val_clips += clips[12:]
    write_rows(DEMO / "voices/train.jsonl", train_clips)
    write_rows(DEMO / "voices/val.jsonl", val_clips)


def make_corpus(folder: Path, num_clips: int) -> None:
    """Make `num_clips` clips, spread evenly over the other voices.

    3 % of them, with sentences that no training clip has, are for validation. No clip has a
    sentence that Nora is validated with.
    """
    taken = set(nora_sentences()[1])
    train: list[Clip] = []
    val: list[Clip] = []
    for number, voice in enumerate(OTHERS):
        count = num_clips // len(OTHERS) + (number < num_clips % len(OTHERS))
        num_val = max(1, round(0.03 * count))
        random_source = dice(f"corpus {voice.speaker}")
        held_out = voice.grammar.draw_new(num_val, random_source, taken)
        own = voice.grammar.draw_new(count - num_val, random_source, set(taken))
        speak(voice, [*own, *held_out], folder / "speech")
        train += [_clip(voice, i, text, "speech") for i, text in enumerate(own)]
        val += [_clip(voice, i, text, "speech") for i, text in enumerate(held_out, len(own))]
        print(f"{voice.speaker}: {count} clips", flush=True)
    heard_later = {clip.text for clip in val}
    write_rows(folder / "train.jsonl", [clip for clip in train if clip.text not in heard_later])
    write_rows(folder / "val.jsonl", val)


def speak(voice: Voice, sentences: Sequence[str], folder: Path) -> None:
    """Write `sentences` to `folder`/<speaker>/0000.flac, 0001.flac, ...: 16 kHz mono."""
    (folder / voice.speaker).mkdir(parents=True, exist_ok=True)

    def speak_one(item: tuple[int, str]) -> None:
        number, text = item
        wave = synthesise(voice, text)
        soundfile.write(
            folder / voice.speaker / f"{number:04d}.flac", wave, SAMPLE_RATE_HZ, subtype="PCM_16"
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(speak_one, enumerate(sentences)))


def synthesise(voice: Voice, text: str) -> NDArray[np.float32]:
    """Return the wave of a sentence: 16 kHz mono, silence trimmed, level normalised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        sound = ["-v", voice.espeak, "-s", str(voice.words_per_min), "-p", str(voice.pitch)]
        subprocess.run(["espeak-ng", *sound, "-w", str(path), "--", text], check=True)
        wave, rate_hz = soundfile.read(path, dtype="float32")
    wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)
    wave = _cut_silence(wave * (LEVEL / np.sqrt(np.mean(wave**2))))
    peak = float(np.abs(wave).max())
    steps = np.round(wave / max(1.0, peak) * AMPLITUDE_STEPS).clip(
        -AMPLITUDE_STEPS, AMPLITUDE_STEPS - 1
    )
    return (steps / AMPLITUDE_STEPS).astype(np.float32)


def _cut_silence(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    loud = np.flatnonzero(np.abs(wave) > SILENCE)
    margin = round(MARGIN_SEC * SAMPLE_RATE_HZ)
    return wave[max(0, loud[0] - margin) : loud[-1] + margin]


def write_rows(path: Path, clips: Sequence[Clip]) -> None:
    """Write metadata: a JSON array for .json, one object per line for .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(clip) for clip in clips]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )


def _clip(voice: Voice, number: int, text: str, speech: str) -> Clip:
    return Clip(f"{speech}/{voice.speaker}/{number:04d}.flac", text, voice.speaker)


if __name__ == "__main__":
    sys.exit(main())
