"""Train the base of the spoken demo on its corpus; resumable.

    python scripts/spoken_demo/make_base.py --corpus DIR --output FOLDER

FOLDER has the codec and the tokenizer that make_codec.py wrote; base/ is added to it. The work is
done by pretokenize.py and train.py, which gets all further options. The demo's new voice is not in
the corpus.
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
        "--corpus", type=Path, required=True, help="folder made by make_speech.py --corpus"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the demo's parts")
    parser.add_argument(
        "--work_dir", type=Path, help="tokens and run folder (default: the corpus folder)"
    )
    arguments, more = parser.parse_known_args()
    work = arguments.work_dir or arguments.corpus
    train_data = ["--train_data", str(arguments.corpus / "train.jsonl")]
    val_data = ["--val_data", str(arguments.corpus / "val.jsonl")]
    codec = ["--codec", "melrvq", "--codec_source", str(arguments.output / "codec.safetensors")]
    tokenizer = ["--tokenizer", str(arguments.output / "tokenizer.json")]
    encoding = [*train_data, *val_data, *codec, *tokenizer]
    return make_base(encoding, "spoken_base.yaml", work, arguments.output / "base", more)


if __name__ == "__main__":
    sys.exit(main())
