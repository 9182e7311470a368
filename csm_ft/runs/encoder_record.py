"""The encoder that weights were trained with: found from whatever folder they lie in, and written.

An export has a record of it in `speech.json`, with the encoder's small files beside it; a run has
it in its token file. `speech.json` is flat: the family, what every encoder has, the facts of this
one, the files beside it (`assets`), and the speakers, the most frequent first.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from csm_ft import hub
from csm_ft.atomic import write_whole
from csm_ft.config.train import TrainConfig
from csm_ft.data.split import Store, StoreInfo
from csm_ft.data.tags import count_tags
from csm_ft.errors import ConfigError, HubError
from csm_ft.families import DEFAULT_FAMILY
from csm_ft.families.base import EncoderRecord
from csm_ft.families.stores import is_foreign, open_store
from csm_ft.runs.source import Source, fingerprints, open_data

RECORD = "speech.json"
_COMMON = ("family", "sample_rate_hz", "frame_sec", "audio_fingerprint", "text_fingerprint")
_KINDS = {
    "family": str,
    "sample_rate_hz": int,
    "frame_sec": int | float,
    "audio_fingerprint": str,
    "text_fingerprint": str,
    "assets": dict,
    "speakers": list,
    "tags": dict,
}
_ASSETS = {  # asset of a token file -> its file beside the record, and the fact that names it
    "codec": ("codec.safetensors", "codec_source"),
    "tokenizer": ("tokenizer.json", "tokenizer"),
    "tokenizer.model": ("tokenizer.model", "tokenizer"),
}
_MAX_SPEAKERS = 1000
_WAY_OUT = "export again with `python -m csm_ft.export`, or name the token file with --data"


class Heard(NamedTuple):
    """Whom and what the weights heard in training."""

    speakers: tuple[str, ...]  # the most frequent first
    tags: Mapping[str, Mapping[str, int]]  # column -> value -> clips


def find_record(source: Source, data: str = "") -> EncoderRecord:
    """Find the record of weights: in the token file `data`, beside the weights, or in their run's.

    A record whose `store` is None says in `found` why there is none. Raises ConfigError for a
    damaged record, StoreError for a token file that cannot be read.
    """
    if data:
        path = Path(data)
        return _of_store(source, open_store(path, in_memory=is_foreign(path)))
    folder = _folder_of_record(source.weights)
    if folder is not None:
        return _of_folder(source, folder)
    store, problem = open_data(source)
    return _record(source, None, problem) if store is None else _of_store(source, store)


def family_of(source: Source, wanted: str = "auto") -> str:
    """Return the name of the family of weights: by their run or their record, else `wanted`.

    ConfigError when another one is wanted than they are of; "auto" is any, and the default family
    where nothing is known.
    """
    known = _known_family(source)
    if known and wanted not in ("auto", known):
        raise ConfigError(
            f"--family {wanted}: {source.label} is of the family {known}; leave the flag out"
        )
    return known or (DEFAULT_FAMILY if wanted == "auto" else wanted)


def _known_family(source: Source) -> str:
    if source.config is not None:
        return source.config.family
    folder = _folder_of_record(source.weights)
    return "" if folder is None else _read(folder / RECORD).get("family", DEFAULT_FAMILY)


def write_record(folder: Path, store: Store | None, weights: str) -> None:
    """Write speech.json and the files that travel in the token file.

    Without a token file, those beside `weights` are copied, if there is a record among them.
    """
    if store is None:
        _copy_record(Path(weights), folder)
        return
    values = {name: getattr(store.info, name) for name in _COMMON} | dict(store.info.facts)
    files: dict[str, str] = {}
    for asset, blob in store.assets.items():
        own_name = asset if "." in asset else f"{asset}.bin"
        files[asset], fact = _ASSETS.get(asset, (own_name, ""))
        if fact in values:
            values[fact] = files[asset]
        write_whole(folder / files[asset], blob)
    speakers = _speakers(store)[:_MAX_SPEAKERS]
    values |= {"assets": files, "speakers": speakers, "tags": count_tags(store.splits["train"])}
    write_whole(folder / RECORD, json.dumps(values, indent=2))


def _copy_record(source: Path, folder: Path) -> None:
    if not (source / RECORD).is_file():
        return
    files = _asset_files(_read(source / RECORD))
    for name in (RECORD, *files.values()):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _folder_of_record(weights: str) -> Path | None:
    """Return the folder of speech.json beside weights, here or on the hub."""
    if hub.is_hub_name(weights):
        return _hub_folder(weights)
    path = Path(weights)
    folder = path if path.is_dir() else path.parent
    return folder if (folder / RECORD).is_file() else None


def _hub_folder(name: str) -> Path | None:
    """Fetch the record of a repository, and the files that it names; most have none."""
    otherwise = "name the token file with --data"
    try:
        path = hub.fetch_if_present(name, RECORD, otherwise=otherwise)
    except HubError:
        return None
    if path is None:
        return None
    for file in _asset_files(_read(path)).values():
        hub.fetch_if_present(name, file, otherwise=otherwise)
    return path.parent


def record_of_run(config: TrainConfig, store: Store) -> EncoderRecord:
    """Return the record of weights that are being trained on a token file."""
    speakers, tags = _speakers(store), count_tags(store.splits["train"])
    label = config.output_dir
    return EncoderRecord(label, store, str(store.path), speakers, tags, config)


def _of_folder(source: Source, folder: Path) -> EncoderRecord:
    path = folder / RECORD
    values = _read(path)
    assets: dict[str, bytes] = {}
    for asset, name in _asset_files(values).items():
        if not (folder / name).is_file():
            raise ConfigError(f"{path}: names {name}, which is not beside it; {_WAY_OUT}")
        assets[asset] = (folder / name).read_bytes()
    info = StoreInfo(
        family=values.get("family", DEFAULT_FAMILY),
        arrays={},
        sample_rate_hz=values.get("sample_rate_hz", 0),
        frame_sec=values.get("frame_sec", 0.0),
        audio_fingerprint=values.get("audio_fingerprint", ""),
        text_fingerprint=values.get("text_fingerprint", ""),
        facts=values,
    )
    speakers = tuple(str(name) for name in values.get("speakers", ()))
    tags = values.get("tags", {})
    return _record(source, Store(path, info, {}, assets), str(path), Heard(speakers, tags))


def _of_store(source: Source, store: Store) -> EncoderRecord:
    heard = Heard(_speakers(store), count_tags(store.splits["train"]))
    return _record(source, store, str(store.path), heard)


def _record(
    source: Source, store: Store | None, found: str, heard: "Heard | None" = None
) -> EncoderRecord:
    return EncoderRecord(
        label=source.label,
        store=store,
        found=found,
        speakers=heard.speakers if heard else (),
        tags=heard.tags if heard else {},
        config=source.config,
        fingerprints=fingerprints(source),
    )


def _read(path: Path) -> dict[str, Any]:
    """Read and check a record; ConfigError if it is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not what csm_ft.export writes ({error}); {_WAY_OUT}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not what csm_ft.export writes; {_WAY_OUT}")
    wrong = [
        name
        for name, kind in _KINDS.items()
        if name in values and not isinstance(values[name], kind)
    ]
    if not wrong:
        files = values.get("assets", {})
        wrong = [str(file) for file in files.values() if not _is_beside(file)]
    if wrong:
        raise ConfigError(
            f"{path}: {', '.join(wrong)} is not what csm_ft.export writes; {_WAY_OUT}"
        )
    return values


def _asset_files(values: dict[str, Any]) -> dict[str, str]:
    """Return the files beside a record, by asset; older ones name them among the facts alone."""
    if "assets" in values:
        return dict(values["assets"])
    return {asset: file for asset, (file, fact) in _ASSETS.items() if values.get(fact) == file}


def _is_beside(name: object) -> bool:
    """Tell whether a name is one of a file in the same folder, and not of a hidden one."""
    return isinstance(name, str) and Path(name).name == name and not name.startswith(".")


def _speakers(store: Store) -> tuple[str, ...]:
    """Return the speakers of the training clips, the most frequent first."""
    split = store.splits["train"]
    counts = Counter(split.speaker(row) for row in range(len(split)))
    return tuple(name for name, _ in counts.most_common() if name)
