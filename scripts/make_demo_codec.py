"""Fit the embedded codec and text tokenizer on a synthetic corpus, without the demo's new voice.

python scripts/make_demo_speech.py --corpus DIR --n_clips 4000
python scripts/make_demo_codec.py --corpus DIR      # demo/codec.safetensors, demo/tokenizer.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from csm_ft.codecs import EMBEDDED_MELRVQ, melrvq  # noqa: E402
from csm_ft.families.csm.encoder import (  # noqa: E402
    BOS,
    EMBEDDED_TOKENIZER,
    EOS,
    TextTokenizer,
)
from csm_ft.families.template import DEFAULT_TEMPLATE  # noqa: E402

TEXT_VOCAB_SIZE = 512
# How Llama 3 splits text before byte-level BPE: words with the space before them, runs of at most
# three digits, punctuation.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main() -> int:
    """Fit the codec, train the tokenizer, and print their results on the validation clips."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder made by make_demo_speech.py --corpus"
    )
    parser.add_argument(
        "--n_clips",
        type=int,
        default=1000,
        help="clips to fit the codec on, spread evenly over the corpus (default 1000)",
    )
    arguments = parser.parse_args()
    train, val = (read_rows(arguments.corpus / f"{split}.jsonl") for split in ("train", "val"))

    chosen = train[:: max(1, len(train) // arguments.n_clips)][: arguments.n_clips]
    waves = read_waves(arguments.corpus, chosen)
    minutes = sum(map(len, waves)) / melrvq.SAMPLE_RATE_HZ / 60
    print(f"fitting the codec on {len(waves)} clips, {minutes:.1f} min", flush=True)
    codec = melrvq.fit(waves)
    EMBEDDED_MELRVQ.write_bytes(codec.to_bytes())
    errors = " ".join(f"{error:.3f}" for error in codec.errors(read_waves(arguments.corpus, val)))
    size = f"{EMBEDDED_MELRVQ.stat().st_size / 1e6:.2f} MB"
    what = "share lost after 1, 2, ... codebooks on other sentences"
    print(f"{EMBEDDED_MELRVQ.name}: {size}; {what}: {errors}")

    blob = train_tokenizer([DEFAULT_TEMPLATE.format(**row) for row in train])
    EMBEDDED_TOKENIZER.write_bytes(blob)
    tokenizer = TextTokenizer(blob, "trained")
    lengths = [len(tokenizer.encode(DEFAULT_TEMPLATE.format(**row))) for row in val]
    mean = np.mean(lengths)
    print(f"{EMBEDDED_TOKENIZER.name}: {tokenizer.vocab_size} ids, {mean:.1f} tokens a clip")
    return 0


def train_tokenizer(texts: Sequence[str]) -> bytes:
    """Return a tokenizer.json like Llama 3's: byte-level BPE, 512 ids with BOS and EOS."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str(pretty=True).encode("utf-8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read metadata of the corpus: path, text, speaker."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_waves(folder: Path, rows: Sequence[dict[str, str]]) -> list[np.ndarray]:
    """Read the corpus' audio, 16 kHz mono."""
    return [soundfile.read(folder / row["path"], dtype="float32")[0] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
