"""What a trial is: train.py with a complete config, in a folder of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft.config import TrainConfig, build
from csm_ft.families import arrange
from csm_ft.sweep.asha import Rungs
from csm_ft.sweep.config import SweepConfig


@dataclass(frozen=True)
class DataFacts:
    """What the orchestrator needs to know of the token file."""

    num_train_examples: int
    fingerprint: str


Describe = Callable[[TrainConfig], DataFacts]


def describe_data(config: TrainConfig) -> DataFacts:
    """Read the facts from the token file; StoreError if it cannot be trained on."""
    from csm_ft.data.token_file import (
        open_tokens,
    )  # here, so that --help and a wrong flag need no HDF5

    store = open_tokens(Path(config.data), in_memory=False)
    return DataFacts(len(arrange(store.splits["train"], config)), store.info.content_fingerprint)


def rungs_of(sweep: SweepConfig, base: TrainConfig, data: DataFacts) -> Rungs:
    """Return where trials are compared, in examples seen."""
    horizon = (
        base.max_steps * base.batch_size * base.grad_acc_steps
        or base.n_epochs * data.num_train_examples
    )
    return Rungs(sweep.rung_shares, sweep.validation_share, horizon)


def agreement(
    sweep: SweepConfig, base: TrainConfig, space: Mapping[str, Any], data: DataFacts
) -> dict[str, Any]:
    """Return all that must stay the same for trials to be comparable.

    Options that change the training, space, tokens, rungs.
    """
    facts = {f"space of {name}": text for name, text in space.items()}
    facts |= {name: value for name, value in base.training_keys().items() if name not in space}
    facts |= {
        f"value of trial 0 for {name}": value
        for name, value in base.training_keys().items()
        if name in space
    }
    facts |= {
        "content of the token file": data.fingerprint,
        "rungs": [str(share) for share in sweep.rung_shares],
    }
    return facts | {"eta": sweep.eta, "pruner": sweep.pruner}


@dataclass(frozen=True)
class Configs:
    """Makes the config of each run of the sweep."""

    out: Path
    sweep: SweepConfig
    base: TrainConfig
    device: str
    threads: int

    def folder(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.out / "trials" / f"{number:04d}"

    def trial(self, number: int, params: Mapping[str, Any], *, threads: int) -> TrainConfig:
        """Return the complete config of a trial.

        ConfigError if its parameters do not go together.
        """
        name = f"{number:04d}"
        return self._run(self.folder(number), name, threads, params)

    def baseline(self) -> TrainConfig:
        """Return the config under which the untrained model is measured."""
        return self._run(self.out / "baseline", "baseline", self.threads, {})

    def _run(self, folder: Path, name: str, threads: int, params: Mapping[str, Any]) -> TrainConfig:
        fixed = {
            "output_dir": str(folder),
            "device": self.device,
            "threads": threads,
            "val_every": str(self.sweep.validation_share),
            "best_from": str(self.sweep.rung_shares[0]),
            "measure_base": False,
            "keep_last": 1,
            "resume": True,
            "wandb_group": self.sweep.study_name,
            "wandb_name": f"{self.sweep.study_name}-{name}",
        }
        return build(type(self.base), {**self.base.model_dump(), **params, **fixed})
