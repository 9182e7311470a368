"""The programs that csm-ft is measured against, where they are: never copied, read by path.

PEER_PATH is a checkout of the public CSM trainer, CSM_REPO_PATH one of Sesame's code, which it
needs. transformers is an installed package.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any
from unittest.mock import patch

from csm_ft.errors import ConfigError

PATHS = {"public trainer": "PEER_PATH", "Sesame's code": "CSM_REPO_PATH"}


def missing() -> str:
    """Return why the public trainer cannot be measured; "" if it can."""
    for name, variable in PATHS.items():
        path = os.environ.get(variable)
        if not path:
            return f"set {variable} to a checkout of the {name}".replace("the Sesame", "Sesame")
        if not Path(path).is_dir():
            return f"{variable}={path}: no such folder"
    return ""


def commits() -> dict[str, str]:
    """Return the commits of the checkouts, by name."""
    found = {}
    for name, variable in PATHS.items():
        if path := os.environ.get(variable):
            command = ["git", "-C", path, "rev-parse", "--short", "HEAD"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[name] = done.stdout.strip() or "unknown"
    return found


def public_trainer(model: Any) -> Any:
    """Return the public trainer's model with the weights and the size of ours.

    What its modules import to make and mark sound is replaced by empty modules, so that neither
    weights nor packages are needed that have no part in training.
    """
    from csm_ft.families.csm.export.sesame import llama

    stand_ins = {name: ModuleType(name) for name in ("moshi", "moshi.models", "generator")}
    vars(stand_ins["moshi.models"])["loaders"] = None
    for name in ("Generator", "load_llama3_tokenizer", "load_watermarker"):
        vars(stand_ins["generator"])[name] = None
    with patch.dict(sys.modules, stand_ins), patch.object(sys, "path", list(sys.path)):
        theirs = _load("models", Path(os.environ["CSM_REPO_PATH"], "models.py"))
        utils = _load("utils", Path(os.environ["PEER_PATH"], "utils.py"))
    size = model.size
    theirs.FLAVORS["backbone"] = lambda: llama(size.backbone)
    theirs.FLAVORS["decoder"] = lambda: llama(size.decoder)
    vocabularies = (size.text_vocab_size, size.audio_vocab_size, size.num_codebooks)
    peer = theirs.Model(theirs.ModelArgs("backbone", "decoder", *vocabularies))
    peer.load_state_dict(model.state_dict())
    peer.decoder_loss_weight = 0.5
    peer.forward = MethodType(utils.forward, peer)
    return peer


def _load(name: str, path: Path) -> Any:
    """Import a file under the name by which others import it."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path}: no such file; is its folder the right checkout?")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
