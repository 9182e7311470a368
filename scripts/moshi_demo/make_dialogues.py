"""Make the dialogues of the Moshi demo: those to bundle, or the corpus its base is trained on.

    # train.jsonl, val.jsonl, dialogues/, question.flac and tokenizer.model, as in demo/moshi
    python scripts/moshi_demo/make_dialogues.py --output FOLDER
    # train.jsonl and val.jsonl in DIR: the same words, none of the demo's questions
    python scripts/moshi_demo/make_dialogues.py --corpus DIR

It needs espeak-ng; the same version writes the same files.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile
from dialogues import SAMPLE_RATE_HZ, USER, Dialogue, Wave, converse, texts
from pairs import ENGLISH, Talk, corpus_talks, demo_talks, dice

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from csm_ft.families.moshi.tokenizer import fit_tokenizer  # noqa: E402

TURNS = {"train": 3, "val": 1}  # pairs of a dialogue
CORPUS_TURNS = 5
TEXT_VOCAB_SIZE = 640  # most words are one token


def main() -> int:
    """Make the demo's dialogues and its tokenizer, or a corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="folder for the dialogues to bundle")
    target.add_argument("--corpus", type=Path, help="folder for the corpus of the base")
    parser.add_argument(
        "--n_dialogues", type=int, default=500, help="of the corpus (default 500, 3 hours)"
    )
    arguments = parser.parse_args()
    if arguments.corpus:
        for split, count in (("train", arguments.n_dialogues), ("val", 12)):
            write(arguments.corpus, split, corpus_talks(count, CORPUS_TURNS, f"corpus {split}"))
        return 0
    for split, turns in TURNS.items():
        write(arguments.output, split, demo_talks(turns, split))
    question = Dialogue("en")
    question.say(USER, ENGLISH[0].question, 0.4)
    _write_sound(arguments.output / "question.flac", question.sound(tail_sec=5.0)[:, USER])
    tokenizer = fit_tokenizer(texts(demo_talks(20, "tokenizer")), TEXT_VOCAB_SIZE)
    (arguments.output / "tokenizer.model").write_bytes(tokenizer.blob)
    print(f"tokenizer.model: {tokenizer.vocab_size} ids, {len(tokenizer.blob) / 1e3:.0f} kB")
    return 0


def write(folder: Path, split: str, talks: Sequence[Talk]) -> None:
    """Write SPLIT.jsonl, and each dialogue as FLAC beside its words, as kyutai's tools do."""
    sounds = folder / "dialogues"
    sounds.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str | float]] = []
    for number, talk in enumerate(talks):
        dialogue = converse(talk, dice(f"{split} {number}"))
        path = sounds / f"{split}-{number:02d}.flac"
        wave = dialogue.sound()
        _write_sound(path, wave)
        _write_json(path.with_suffix(".json"), {"alignments": dialogue.alignments()})
        rows.append({"path": f"dialogues/{path.name}", "duration": len(wave) / SAMPLE_RATE_HZ})
    lines = [json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    minutes = sum(float(row["duration"]) for row in rows) / 60
    print(f"{split}: {len(rows)} dialogues, {minutes:.1f} min", flush=True)


def _write_sound(path: Path, wave: Wave) -> None:
    soundfile.write(path, wave, SAMPLE_RATE_HZ, subtype="PCM_16", compression_level=1)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
