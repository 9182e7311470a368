"""Make the dialogues of the Moshi demo: those to bundle, or the corpus its base is trained on.

    # train.jsonl, val.jsonl, dialogues/ and tokenizer.model in FOLDER, as in demo/moshi
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
from dialogues import SAMPLE_RATE_HZ, converse, texts
from pairs import Talk, corpus_talks, demo_talks, dice

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from csm_ft.families.moshi.tokenizer import fit_tokenizer  # noqa: E402

PAIRS_PER_DIALOGUE = 5
COPIES = {"train": 3, "val": 1}  # how often each pair is asked
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
        "--n_dialogues", type=int, default=1200, help="of the corpus (default 1200, 8 hours)"
    )
    arguments = parser.parse_args()
    if arguments.corpus:
        write(arguments.corpus, "train", corpus_talks(arguments.n_dialogues, 5, "corpus"))
        write(arguments.corpus, "val", corpus_talks(12, 5, "corpus val"))
        return 0
    for split, copies in COPIES.items():
        write(arguments.output, split, demo_talks(copies, PAIRS_PER_DIALOGUE, split))
    said = texts(demo_talks(20, PAIRS_PER_DIALOGUE, "tokenizer"))
    tokenizer = fit_tokenizer(said, TEXT_VOCAB_SIZE)
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
        soundfile.write(path, wave, SAMPLE_RATE_HZ, subtype="PCM_16", compression_level=1)
        _write_json(path.with_suffix(".json"), {"alignments": dialogue.alignments()})
        rows.append({"path": f"dialogues/{path.name}", "duration": len(wave) / SAMPLE_RATE_HZ})
    lines = [json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    minutes = sum(float(row["duration"]) for row in rows) / 60
    print(f"{split}: {len(rows)} dialogues, {minutes:.1f} min", flush=True)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
