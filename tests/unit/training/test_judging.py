"""What training refuses to judge, and whose fault too little memory is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from csm_ft.config.train import TrainConfig
from csm_ft.data.split import Store
from csm_ft.device import torch_state_kept
from csm_ft.errors import ConfigError, MachineError
from csm_ft.families import open_family
from csm_ft.training import judging
from tests.helpers.tables import INFO


@pytest.mark.parametrize(
    ("family", "facts"), [("moonshine", {}), ("moshi", {}), ("moshi", {"mono": "reject"})]
)
def test_data_without_texts_to_speak_are_refused(family: str, facts: dict[str, str]) -> None:
    config, store = TrainConfig(judge_every="1/3"), store_of(facts)
    with pytest.raises(ConfigError, match=f"{family} speaks no texts of tokens.hdf5"):
        judging.check_judging(config, open_family(family), store)
    judging.check_judging(TrainConfig(), open_family(family), store)


@pytest.mark.parametrize(("family", "facts"), [("csm", {}), ("moshi", {"mono": "silent_user"})])
def test_data_with_texts_are_judged(family: str, facts: dict[str, str]) -> None:
    config = TrainConfig(judge_every="1/3")
    judging.check_judging(config, open_family(family), store_of(facts))


def store_of(facts: dict[str, str]) -> Store:
    return Store(Path("tokens.hdf5"), replace(INFO, facts=facts), {})


def test_too_little_memory_is_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError as error:
            raise MachineError("out of memory on cuda") from error

    monkeypatch.setattr(judging, "speak", too_large)
    nothing: Any = None
    with pytest.raises(torch.OutOfMemoryError):
        judging._speak(nothing, nothing, nothing, Path())


def test_random_state_and_threads_are_kept() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    with torch_state_kept("cpu"):
        torch.rand(7)
        torch.set_num_threads(threads + 1)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == threads
