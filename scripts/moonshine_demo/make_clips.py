"""Make the speech of the Moonshine demo: the clips to bundle, or the corpus its base is trained on.

    # new_voice/ and old_voices/, each with train.jsonl, val.jsonl and their clips
    python scripts/moonshine_demo/make_clips.py --output FOLDER
    # train.jsonl and val.jsonl in DIR: the old voices, other sentences
    python scripts/moonshine_demo/make_clips.py --corpus DIR

It needs espeak-ng; the same version writes the same files.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile
from speech import BASE_VOICES, NEW_VOICE, SAMPLE_RATE_HZ, Voice, say, sentences

# Sentences of the new voice, and as many of the old ones; those of val that train has are left out.
NUM_BUNDLED = {"train": 80, "val": 48}


def main() -> int:
    """Make the demo's clips, or a corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="folder for the clips to bundle")
    target.add_argument("--corpus", type=Path, help="folder of the corpus")
    parser.add_argument(
        "--n_clips", type=int, default=4000, help="of the corpus (default 4000, 2 hours)"
    )
    arguments = parser.parse_args()
    bundled = bundled_sentences()
    if arguments.output:
        for split, texts in bundled.items():
            write(arguments.output / "new_voice", split, texts, [NEW_VOICE], "ogg")
            write(arguments.output / "old_voices", split, texts, BASE_VOICES, "ogg")
        return 0
    known = [text for texts in bundled.values() for text in texts]
    for split, count in (("train", arguments.n_clips), ("val", 60)):
        texts = sentences(count, f"corpus {split}", known)
        known += texts
        write(arguments.corpus, split, texts, BASE_VOICES, "wav")
    return 0


def bundled_sentences() -> dict[str, list[str]]:
    """Return what the bundled clips say; no sentence is in both splits."""
    train, val = (sentences(count, split) for split, count in NUM_BUNDLED.items())
    return {"train": train, "val": [text for text in val if text not in train]}


def write(
    folder: Path, split: str, texts: Sequence[str], voices: Sequence[Voice], suffix: str
) -> None:
    """Write SPLIT.jsonl and a clip of each text, the voices in turn."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    duration_sec = 0.0
    for number, text in enumerate(texts):
        voice = voices[number % len(voices)]
        wave = say(text, voice, dice(split, number))
        path = folder / split / f"{number:04d}.{suffix}"
        subtype = "OPUS" if suffix == "ogg" else "PCM_16"
        soundfile.write(path, wave, SAMPLE_RATE_HZ, subtype=subtype)
        duration_sec += len(wave) / SAMPLE_RATE_HZ
        row = {"path": f"{split}/{path.name}", "text": text, "speaker": voice.speaker}
        rows.append(json.dumps(row))
    (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{folder}: {split} {len(texts)} clips, {duration_sec / 60:.1f} min", flush=True)


def dice(split: str, number: int) -> random.Random:
    """Return what decides how a clip is spoken, always the same."""
    return random.Random(f"{split} {number}")  # noqa: S311 - reproducible, not secret


if __name__ == "__main__":
    sys.exit(main())
