"""Train the base of the Moshi demo on its corpus; resumable.

    python scripts/moshi_demo/make_base.py --corpus DIR --output FOLDER

FOLDER has the tokenizer that make_dialogues.py wrote; base/ is added to it. The work is done by
pretokenize.py and train.py, which gets all further options. None of the demo's questions is in the
corpus.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo_bases import make_base


def main() -> int:
    """Pretokenise, train, and save the best weights as bf16 (loading converts them to fp32)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder made by make_dialogues.py --corpus"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the demo's parts")
    arguments, more = parser.parse_known_args()
    splits = ("train", "val")
    data = [f"--{split}_data={arguments.corpus / f'{split}.jsonl'}" for split in splits]
    tokenizer = ["--tokenizer", str(arguments.output / "tokenizer.model")]
    moshi = ["--family", "moshi", "--codec", "melrvq"]
    encoding = [*moshi, *data, *tokenizer]
    return make_base(encoding, "moshi_base.yaml", arguments.corpus, arguments.output / "base", more)


if __name__ == "__main__":
    sys.exit(main())
