"""The further token files of a run: --replay against forgetting, --canary to see it."""

from pathlib import Path

from csm_ft.config.train import TrainConfig, parse_replay
from csm_ft.data.examples import Examples
from csm_ft.data.replay import Replay
from csm_ft.data.split import Store
from csm_ft.errors import ConfigError
from csm_ft.families.base import Family
from csm_ft.families.stores import open_tokens

_ENCODERS = {"audio_fingerprint": "sound", "text_fingerprint": "text"}


def open_replay(config: TrainConfig, store: Store, family: Family, ranks: int = 1) -> Replay | None:
    """Open what --replay names; ConfigError where it does not fit the run's token file."""
    if not config.replay:
        return None
    path, share = parse_replay(config.replay)
    other = _open_fitting(path, "replay", config, store)
    examples = family.arrange(other.splits["train"], config, evaluate=False)
    if not len(examples):
        raise ConfigError(f"replay {path}: it has no example to train on; name another token file")
    fingerprint = other.info.content_fingerprint
    return Replay(examples, share, config.seed, config.micro_batch_tokens, fingerprint, ranks)


def open_canary(config: TrainConfig, store: Store, family: Family) -> Examples | None:
    """Open what --canary names; ConfigError where it does not fit the run's token file."""
    if not config.canary:
        return None
    other = _open_fitting(Path(config.canary), "canary", config, store)
    return family.arrange(other.splits["val"], config, evaluate=True)


def _open_fitting(path: Path, option: str, config: TrainConfig, store: Store) -> Store:
    """Open a token file whose ids mean the same as those of the run's own."""
    in_memory = not config.partial_data_loading
    other = open_tokens(path, config.family, in_memory=in_memory, option=option)
    for name, what in _ENCODERS.items():
        own, others = getattr(store.info, name), getattr(other.info, name)
        if own != others:
            raise ConfigError(
                f"{option} {path}: its {what} is encoded otherwise than that of {store.path}"
                f" ({others or 'not known'}, {own or 'not known'}); pretokenise one of them again"
                " with the options of the other"
            )
    return other
