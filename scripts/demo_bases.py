"""What the scripts that train the demos' bases share: the two programs, and weights as bf16."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pretokenize  # noqa: E402
import train  # noqa: E402
from csm_ft.atomic import whole_folder  # noqa: E402
from csm_ft.families.stores import open_store  # noqa: E402
from csm_ft.runs.encoder_record import write_record  # noqa: E402


def make_base(
    encoding: Sequence[str],
    config: str,
    work: Path,
    base: Path,
    more: Sequence[str],
    *,
    is_recorded: bool = True,
) -> int:
    """Pretokenise, train, and save the best weights as bf16 (loading converts them to fp32).

    Args:
        encoding: Flags of pretokenize.py, without the output.
        config: File in configs/demo with the options of train.py.
        work: Folder of tokens and run, which the same call resumes.
        base: Folder to write; one that is there is replaced.
        more: Further flags of train.py.
        is_recorded: Whether what made the tokens is kept beside the weights.

    Returns:
        0, or the exit code of the program that failed.

    """
    tokens, run = work / "tokens.hdf5", work / "run"
    code = pretokenize.main([*encoding, "--output", str(tokens)])
    if code:
        return code
    options = ["--config", str(ROOT / "configs/demo" / config)]
    code = train.main([*options, "--data", str(tokens), "--output_dir", str(run), *more])
    if code:
        return code
    best = run / "checkpoints/best"
    weights = load_file(best / "model.safetensors")
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    config_json = json.loads((best / "config.json").read_text())
    with whole_folder(base) as folder:
        save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config_json, indent=2) + "\n")
        if is_recorded:
            write_record(folder, open_store(tokens), str(best))
    return 0
