"""Make the speech of the spoken demo: the clips to bundle, or the corpus its base is trained on.

    # speech/ and new_voice/ in FOLDER, laid out as in demo/spoken/
    python scripts/spoken_demo/make_speech.py --output FOLDER
    # train.jsonl and val.jsonl in DIR: the other voices, none of the sentences that are held out
    python scripts/spoken_demo/make_speech.py --corpus DIR

voices.py says what must be installed. Neither base nor codec has heard anything of the new voice.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from sentences import TELEPHONE, draw_phrases, frequent_words, words_of
from voices import NEW_VOICE, SAMPLE_RATE_HZ, VARIANTS, VOICES, Variant, Voice, Wave, at_speed

LEVEL = 0.05  # root mean square of every clip
AMPLITUDE_STEPS = 2048  # 12 bits: half the FLAC bytes, noise 70 dB below the peak
SILENCE = 0.0045  # amplitude below which either end of a clip is cut off
MARGIN_SEC = 0.06  # of that silence to keep
NUM_VALIDATION = 32  # clips of each voice of the corpus
HELD_OUT = (  # what the new voice is validated with; nobody is trained on these sentences
    "Please check the number and dial again.",
    "Please enter the channel number followed by the pound key.",
    "The conference has been extended.",
    "The conference is now being recorded.",
    "You are currently the only person in this conference.",
    "That is not a valid password. Please try again.",
    "Press seven to delete this message.",
    "Press six to play the next message.",
    "Your message has been saved.",
    "Please enter your new password followed by the pound key.",
    "Press star to cancel this message.",
    "That feature is not available on this line.",
    "Please enter the number you wish to call.",
    "Press three for advanced options.",
    "Please try your call again later.",
    "Press four to place an outgoing call.",
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
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="folder for the clips to bundle")
    target.add_argument("--corpus", type=Path, help="folder for the corpus of the other voices")
    parser.add_argument("--voices", nargs="*", help="voices of the corpus (default: all)")
    parser.add_argument("--max_clips", type=int, help="of each voice (default: all)")
    arguments = parser.parse_args()
    if arguments.corpus:
        wanted = arguments.voices or [voice.speaker for voice in VOICES]
        for voice in VOICES:
            if voice.speaker in wanted:
                make_corpus(arguments.corpus, voice, arguments.max_clips)
        for variant in VARIANTS:
            if variant.voice in wanted:
                make_variant(arguments.corpus, variant)
        join_corpus(arguments.corpus)
    else:
        make_bundle(arguments.output)
    return 0


def dice(name: str) -> random.Random:
    """Return a generator that always draws the same for the same name."""
    return random.Random(name)  # noqa: S311 - reproducible, not secret


def words(text: str) -> str:
    """Return a sentence by its words alone: what makes two sentences the same."""
    return " ".join(words_of(text))


def sentences_of(voice: Voice) -> list[str]:
    """Return what a voice of the corpus says, shuffled; never a sentence that is held out."""
    random_source = dice(f"corpus {voice.speaker}")
    first_words = HELD_OUT if voice.grammar is TELEPHONE else ()
    known = set(frequent_words(voice.grammar, voice.num_words, first_words))
    taken: set[str] = set()
    sentences: list[str] = []
    while len(sentences) < voice.num_sentences:
        drawn = voice.grammar.draw_new(voice.num_sentences, random_source, taken)
        sentences += [text for text in drawn if known.issuperset(words_of(text))]
    sentences = sentences[: voice.num_sentences]
    sentences += draw_phrases(sorted(known), voice.num_phrases, random_source)
    random_source.shuffle(sentences)
    held_out = {words(text) for text in HELD_OUT}
    return [text for text in sentences if words(text) not in held_out]


def make_corpus(folder: Path, voice: Voice, max_clips: int | None) -> None:
    """Write `folder`/speech/<speaker>/00000.flac, ... and `folder`/<speaker>.jsonl.

    Clips that are there are kept: the same command continues after an interruption.
    """
    clips = [
        Clip(f"speech/{voice.speaker}/{number:05d}.flac", text, voice.speaker)
        for number, text in enumerate(sentences_of(voice)[:max_clips])
    ]
    missing = [(folder, clip) for clip in clips if not (folder / clip.path).is_file()]
    with multiprocessing.get_context("fork").Pool(initializer=_use_one_core) as pool:
        for number, _ in enumerate(pool.imap_unordered(_synthesise, missing), start=1):
            if number % 500 == 0:
                print(f"{voice.speaker}: {number} of {len(missing)} clips", flush=True)
    write_rows(folder / f"{voice.speaker}.jsonl", clips)
    print(f"{voice.speaker}: {len(clips)} clips", flush=True)


def _use_one_core() -> None:
    """Keep a worker on one core: an engine that starts a thread per core stays on it, too."""
    number = multiprocessing.current_process()._identity[0]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def _synthesise(job: tuple[Path, Clip]) -> None:
    folder, clip = job
    (voice,) = [voice for voice in VOICES if voice.speaker == clip.speaker]
    path = folder / clip.path
    unfinished = path.with_suffix(".part.flac")
    write_clip(unfinished, voice.say(clip.text))
    unfinished.replace(path)


def make_variant(folder: Path, variant: Variant) -> None:
    """Write `folder`/speech/<speaker>/00000.flac, ... and `folder`/<speaker>.jsonl of a variant."""
    rows = (folder / f"{variant.voice}.jsonl").read_text(encoding="utf-8").splitlines()
    clips: list[Clip] = []
    for row in rows[variant.clips]:
        clip = Clip(**json.loads(row))
        wave, _ = soundfile.read(folder / clip.path, dtype="float32")
        path = f"speech/{variant.speaker}/{Path(clip.path).name}"
        write_clip(folder / path, at_speed(wave, variant.speed))
        clips.append(Clip(path, clip.text, variant.speaker))
    write_rows(folder / f"{variant.speaker}.jsonl", clips)


def join_corpus(folder: Path) -> None:
    """Write train.jsonl and val.jsonl from those of the voices that are there.

    The first clips of each voice are for validation; what they say, no voice is trained on.
    """
    train: list[Clip] = []
    val: list[Clip] = []
    for voice in (*VOICES, *VARIANTS):
        path = folder / f"{voice.speaker}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        clips = [Clip(**json.loads(line)) for line in lines]
        val += clips[:NUM_VALIDATION]
        train += clips[NUM_VALIDATION:]
    heard_later = {words(clip.text) for clip in val}
    write_rows(
        folder / "train.jsonl", [clip for clip in train if words(clip.text) not in heard_later]
    )
    write_rows(folder / "val.jsonl", val)


def make_bundle(folder: Path) -> None:
    """Make the clips of the new voice: to train on, and one of each held-out sentence."""
    for split, texts in (("train", sentences_of(NEW_VOICE)), ("val", HELD_OUT)):
        clips: list[Clip] = []
        for number, text in enumerate(texts):
            path = f"../speech/{NEW_VOICE.speaker}/{split}-{number:03d}.flac"
            write_clip(folder / "new_voice" / path, NEW_VOICE.say(text))
            clips.append(Clip(path, text, NEW_VOICE.speaker))
        write_rows(folder / f"new_voice/{split}.json", clips)


def write_clip(path: Path, wave: Wave) -> None:
    """Write FLAC, 16 kHz mono: silence trimmed, level normalised, 12 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = _cut_silence(wave * (LEVEL / np.sqrt(np.mean(wave**2))))
    peak = float(np.abs(wave).max())
    steps = np.round(wave / max(1.0, peak) * AMPLITUDE_STEPS)
    steps = steps.clip(-AMPLITUDE_STEPS, AMPLITUDE_STEPS - 1)
    soundfile.write(
        path, (steps / AMPLITUDE_STEPS).astype(np.float32), SAMPLE_RATE_HZ, subtype="PCM_16"
    )


def _cut_silence(wave: Wave) -> Wave:
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


if __name__ == "__main__":
    sys.exit(main())
