"""The files of a checkpoint behind a hub name, a folder, a run folder or a file."""

import json
from dataclasses import dataclass
from pathlib import Path

from csm_ft import hub
from csm_ft.errors import HubError, WeightsError
from csm_ft.families import lora
from csm_ft.runs.folder import RunFolder, SweepFolder

_SHARDED = ("model.safetensors.index.json", "transformers.safetensors.index.json")
# In order of preference: Sesame's repository has the first, third and fourth.
_NAMES = ("model.safetensors", *_SHARDED, "ckpt.pt", lora.WEIGHTS)
_OTHERWISE = (
    "download the repository elsewhere and give its folder, or train from random weights with"
    " --train_from_scratch"
)


@dataclass(frozen=True)
class Checkpoint:
    """The local files behind a name."""

    files: tuple[Path, ...]
    config: Path | None  # config.json beside them

    @property
    def is_adapter(self) -> bool:
        """Whether these are adapters, whose base has the weights."""
        return self.files[0].name == lora.WEIGHTS

    @property
    def where(self) -> str:
        """The file, or the folder of several, for messages."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)


def locate(name: str) -> Checkpoint:
    """Find the files of a hub name, checkpoint folder, run folder or file.

    Raises WeightsError, which names what was looked for, when there are none, and HubError when the
    hub cannot be reached.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt"):
            raise WeightsError(
                f"{path}: weights are read from .safetensors, or from ckpt.pt (tensors only); name"
                " such a file or its folder"
            )
        return Checkpoint((path,), _beside(path))
    if path.is_dir():
        best = RunFolder(path).best
        for folder in (path, best, SweepFolder(path).best):
            found = next((folder / file for file in _NAMES if (folder / file).is_file()), None)
            if found is not None:
                files = _shards(found) if found.name in _SHARDED else (found,)
                return Checkpoint(files, _beside(found))
        _check_not_deepspeed(path)
        raise WeightsError(
            f"{path}: none of {', '.join(_NAMES)} in this folder, nor in its"
            f" {best.relative_to(path)}"
        )
    if not hub.is_hub_name(name):
        raise WeightsError(f"{name}: no such file or folder, and not a hub name (owner/name)")
    return _download(name)


def _check_not_deepspeed(folder: Path) -> None:
    """Raise WeightsError, with the command that helps, for a state folder of DeepSpeed."""
    states = (*folder.glob("*_states.pt"), *folder.glob("*/*_states.pt"))
    script = folder / "zero_to_fp32.py"
    if not states and not script.is_file():
        return
    command = f"python {script} {folder} {folder}-weights --safe_serialization"
    raise WeightsError(
        f"{folder}: a state folder of DeepSpeed, whose files are pickled and not opened here;"
        f" convert it where DeepSpeed is installed: {command}; copy the config of the weights"
        f" beside them, and name {folder}-weights"
    )


def _beside(path: Path) -> Path | None:
    config = path.parent / "config.json"
    return config if config.is_file() else None


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names; raises WeightsError when one is missing."""
    names = _shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of {len(names)} shards are missing, e.g. {missing[0]}; fetch"
            " the checkpoint again"
        )
    return tuple(index.parent / name for name in names)


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{index}: not an index of shards ({error!r}); fetch it again"
        ) from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise WeightsError(
            f"{index}: names no files, or files outside of its folder: {names[:3]}; fetch it again"
        )
    return names


def _download(name: str) -> Checkpoint:
    """Return the files of a hub repository, in any layout, from the local cache or the hub."""
    # A layout that is cached goes first: it works offline, and no second one is downloaded.
    found = next(filter(None, (hub.cached(name, file) for file in _NAMES)), None)
    for file in () if found else _NAMES:
        found = hub.fetch_if_present(name, file, otherwise=_OTHERWISE)
        if found is not None:
            break
    if found is None:
        raise WeightsError(
            f"{name}: this repository has none of {', '.join(_NAMES)}; name one with the weights of"
            " the model"
        )
    if found.name == lora.WEIGHTS:
        _fetch_config(name, lora.CONFIG)
    files = (found,)
    if found.name in _SHARDED:
        shards = _shard_names(found)
        files = tuple(
            hub.cached(name, shard) or hub.fetch(name, shard, otherwise=_OTHERWISE)
            for shard in shards
        )
    return Checkpoint(files, _fetch_config(name, "config.json"))


def _fetch_config(name: str, file: str) -> Path | None:
    """Return a small file from the repository of weights that were found; None if it has none."""
    try:
        return hub.cached(name, file) or hub.fetch_if_present(name, file, otherwise=_OTHERWISE)
    except HubError:
        # The weights are cached, so a file that is not cached was never in the repository.
        return None
