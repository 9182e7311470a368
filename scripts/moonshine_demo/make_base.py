"""Train the base of the Moonshine demo on its corpus; resumable.

    python scripts/moonshine_demo/make_base.py --corpus DIR --output FOLDER

The work is done by pretokenize.py and train.py, which gets all further options. No sentence of the
demo, and nothing of its new voice, is in the corpus. FOLDER gets base/, with the tokenizer.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo_bases import make_base

VOCAB_SIZE = 300  # 256 bytes, 3 special tokens, the letters, and a few frequent pairs


def main() -> int:
    """Pretokenise, train, and save the best weights as bf16 (loading converts them to fp32)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder made by make_clips.py --corpus"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the demo's parts")
    arguments, more = parser.parse_known_args()
    splits = ("train", "val")
    data = [f"--{split}_data={arguments.corpus / f'{split}.jsonl'}" for split in splits]
    tokenizer = ["--fit_tokenizer", str(VOCAB_SIZE)]
    moonshine = ["--family", "moonshine", *data, *tokenizer]
    return make_base(
        moonshine, "moonshine_base.yaml", arguments.corpus, arguments.output / "base", more
    )


if __name__ == "__main__":
    sys.exit(main())
