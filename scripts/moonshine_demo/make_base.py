"""Train the base of the Moonshine demo on its corpus; resumable.

    python scripts/moonshine_demo/make_base.py --corpus DIR --output FOLDER

The work is done by pretokenize.py and train.py, which gets all further options. No sentence of the
demo, and nothing of its new voice, is in the corpus. FOLDER gets base/, with the tokenizer.
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

VOCAB_SIZE = 300  # 256 bytes, 3 special tokens, the letters, and a few frequent pairs


def main() -> int:
    """Pretokenise, train, and save the best weights as bf16 (loading converts them to fp32)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder made by make_clips.py --corpus"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the demo's parts")
    arguments, more = parser.parse_known_args()
    tokens, run = arguments.corpus / "tokens.hdf5", arguments.corpus / "run"
    splits = ("train", "val")
    data = [f"--{split}_data={arguments.corpus / f'{split}.jsonl'}" for split in splits]
    tokenizer = ["--fit_tokenizer", str(VOCAB_SIZE)]
    moonshine = ["--family", "moonshine", *data, *tokenizer]
    code = pretokenize.main([*moonshine, "--output", str(tokens)])
    if code:
        return code
    config = ["--config", str(ROOT / "configs/demo/moonshine_base.yaml")]
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
