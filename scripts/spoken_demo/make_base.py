"""Train the base of the spoken demo on its corpus; resumable.

    python scripts/spoken_demo/make_base.py --corpus DIR --output FOLDER

FOLDER has the codec and the tokenizer that make_codec.py wrote; base/ is added to it. The work is
done by pretokenize.py and train.py, which gets all further options. The demo's new voice is not in
the corpus.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pretokenize  # noqa: E402
import train  # noqa: E402
from csm_ft.atomic import whole_folder  # noqa: E402
from csm_ft.families.stores import open_store  # noqa: E402
from csm_ft.runs.encoder_record import write_record  # noqa: E402


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
    tokens, run = work / "tokens.hdf5", work / "run"
    train_data = ["--train_data", str(arguments.corpus / "train.jsonl")]
    val_data = ["--val_data", str(arguments.corpus / "val.jsonl")]
    codec = ["--codec", "melrvq", "--codec_source", str(arguments.output / "codec.safetensors")]
    tokenizer = ["--tokenizer", str(arguments.output / "tokenizer.json")]
    code = pretokenize.main([*train_data, *val_data, "--output", str(tokens), *codec, *tokenizer])
    if code:
        return code
    config = ["--config", str(ROOT / "configs/demo/spoken_base.yaml")]
    code = train.main([*config, "--data", str(tokens), "--output_dir", str(run), *more])
    if code:
        return code
    best = run / "checkpoints/best"
    weights = load_file(best / "model.safetensors")
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    config_json = json.loads((best / "config.json").read_text())
    with whole_folder(arguments.output / "base") as folder:
        save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config_json, indent=2) + "\n")
        write_record(folder, open_store(tokens), str(best))
    return 0


if __name__ == "__main__":
    sys.exit(main())
