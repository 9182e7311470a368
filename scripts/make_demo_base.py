"""Train the embedded tiny base (demo/base) on a large synthetic corpus.

    python scripts/make_demo_speech.py --corpus DIR --n_clips 4000
    python scripts/make_demo_base.py --corpus DIR

It runs pretokenize.py and train.py, about half an hour on two CPU cores. The new voice of the demo
is not in the corpus.
"""

import argparse
import sys
from pathlib import Path

from demo_bases import ROOT, make_base


def main() -> int:
    """Pretokenise, train, and save the best weights as bf16 (loading converts them to fp32)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder made by make_demo_speech.py --corpus"
    )
    parser.add_argument(
        "--work_dir", type=Path, help="tokens and run folder (default: the corpus folder)"
    )
    arguments, more = parser.parse_known_args()
    work = arguments.work_dir or arguments.corpus
    train_data = ["--train_data", str(arguments.corpus / "train.jsonl")]
    val_data = ["--val_data", str(arguments.corpus / "val.jsonl")]
    encoding = [*train_data, *val_data, "--codec", "melrvq"]
    return make_base(encoding, "base.yaml", work, ROOT / "demo/base", more, is_recorded=False)


if __name__ == "__main__":
    sys.exit(main())
