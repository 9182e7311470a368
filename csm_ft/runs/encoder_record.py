"""What stands beside exported weights so that they can speak.

Which codec and tokenizer, and those of them that are small; processors.
"""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from csm_ft.atomic import write_whole
from csm_ft.data.token_file import Store
from csm_ft.runs.source import Origin, is_hub_name

SPEECH = "speech.json"
KEYS = (  # of StoreInfo
    "codec",
    "codec_source",
    "codec_fingerprint",
    "num_codebooks",
    "codec_vocab_size",
    "sample_rate_hz",
    "frame_samples",
    "tokenizer",
    "tokenizer_fingerprint",
    "template",
)
_MAX_SPEAKERS = 1000
# Asset of the token file -> the key of speech.json that names it, and its file beside speech.json.
TRAVELLING = {
    "codec": ("codec_source", "codec.safetensors"),
    "tokenizer": ("tokenizer", "tokenizer.json"),
}
PROCESSOR = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)


def write_speech(folder: Path, store: Store | None, origin: Origin) -> None:
    """Write speech.json, and the codec and tokenizer that travel in the token file.

    Without one, those beside the weights are copied.
    """
    if store is None:
        source = Path(origin.weights)
        for name in (SPEECH, *(name for _, name in TRAVELLING.values())):
            if (source / SPEECH).is_file() and (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    facts: dict[str, Any] = {key: getattr(store.info, key) for key in KEYS}
    speakers = Counter(
        store.splits["train"].clip(i).speaker for i in range(len(store.splits["train"]))
    )
    facts["speakers"] = [name for name, _ in speakers.most_common(_MAX_SPEAKERS) if name]
    for asset, (key, name) in TRAVELLING.items():
        blob = store.asset(asset)
        if blob is not None:
            write_whole(folder / name, blob)
            facts[key] = name
    write_whole(folder / SPEECH, json.dumps(facts, indent=2))


def copy_processor(folder: Path, store: Store | None, origin: Origin) -> None:
    """Copy what transformers' processor needs from where training began, if it is there.

    Never another tokenizer than the run's.
    """
    wanted = store.info.tokenizer_fingerprint if store is not None else ""
    for name in PROCESSOR:
        source = _beside(origin.base, name)
        if source is None or (folder / name).exists():
            continue
        if (
            name == "tokenizer.json"
            and wanted
            and hashlib.sha256(source.read_bytes()).hexdigest() != wanted
        ):
            continue
        shutil.copyfile(source, folder / name)


def _beside(weights: str, name: str) -> Path | None:
    """Find a file in a folder of weights, or in the hub's cache on this disk."""
    if is_hub_name(weights):
        cached = try_to_load_from_cache(weights, name)
        return Path(cached) if isinstance(cached, str) else None
    path = Path(weights)
    file = (path if path.is_dir() else path.parent) / name
    return file if weights and file.is_file() else None
