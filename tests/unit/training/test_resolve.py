"""What a run begins with: nothing is left at "auto", and a folder holds one run."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from csm_ft.config.train import TrainConfig
from csm_ft.data.split import Store
from csm_ft.errors import ConfigError, MachineError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import EMBEDDED_BASE, CsmFamily
from csm_ft.training.resolve import open_run, resolve
from tests.helpers.tables import FACTS, INFO


def store_of(**facts: Any) -> Store:
    info = replace(INFO, facts={**FACTS, **facts})
    return Store(Path("data/tokens.hdf5"), info, {})


def resolved(store: Store | None = None, **options: Any) -> CsmConfig:
    config = CsmConfig(data="data/tokens.hdf5", **{"device": "cpu", **options})
    return resolve(config, store or store_of(), CsmFamily())


def test_nothing_is_left_at_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = resolved()
    assert (config.device, config.dtype, config.wandb) == ("cpu", "fp32", "offline")
    assert config.threads == torch.get_num_threads()
    assert config.model_name_or_checkpoint_path == str(EMBEDDED_BASE)
    assert Path(config.output_dir).parent.name == "exp"
    assert config.output_dir == f"exp/tokens-{config.fingerprint()}"
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    monkeypatch.setattr("csm_ft.runs.wandb_settings._is_reachable", lambda: True)
    assert resolved().wandb == "online"


def test_the_base_goes_with_the_codec() -> None:
    mimi = store_of(codec="mimi")
    assert resolved(mimi).model_name_or_checkpoint_path == "sesame/csm-1b"
    scratch = resolved(mimi, train_from_scratch=True)
    assert scratch.model_name_or_checkpoint_path == "auto", "nothing is loaded"
    named = resolved(mimi, model_name_or_checkpoint_path="a/folder")
    assert named.model_name_or_checkpoint_path == "a/folder"


def test_a_family_without_a_base_says_so() -> None:
    class Baseless(CsmFamily):
        def default_base(self, store: Store) -> str:
            return ""

    config = CsmConfig(data="data/tokens.hdf5", device="cpu")
    with pytest.raises(ConfigError, match=r"no published base .*--train_from_scratch"):
        resolve(config, store_of(), Baseless())


def test_an_absent_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match=r"this torch sees no GPU; .*--device cpu"):
        resolved(device="cuda")
    with pytest.raises(MachineError, match="use cpu, cuda or cuda:N"):
        resolved(device="toaster")


def test_prompts_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json"):
        resolved(gen_prompts=str(tmp_path / "none.json"))


# The run folder


def config_in(folder: Path, **options: Any) -> TrainConfig:
    return resolved(output_dir=str(folder), wandb="off", **options)


def test_a_new_folder_records_config_and_machine(tmp_path: Path) -> None:
    config = config_in(tmp_path / "run")
    with open_run(config, store_of()) as (folder, checkpoint):
        assert checkpoint is None
        assert folder.is_run
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert CsmConfig.model_validate(saved) == config
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["audio_fingerprint"] == "c0dec"
    assert environment["text_fingerprint"] == "t0ken"
    assert environment["data_fingerprint"] == INFO.content_fingerprint
    assert environment["packages"]["torch"] == torch.__version__
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "csm from" in log
    assert f"run folder {tmp_path / 'run'}" in log


def test_another_training_is_refused_by_name(tmp_path: Path) -> None:
    with open_run(config_in(tmp_path), store_of()) as (folder, _):
        folder.step_folder(5).mkdir(parents=True)
    with open_run(config_in(tmp_path, log_every="3"), store_of()) as (folder, checkpoint):
        assert checkpoint == folder.step_folder(5), "what does not train may change"
    config = config_in(tmp_path, learning_rate=0.25)
    message = "holds a run of another training:\n  learning_rate: 3e-05 there, 0.25 now\nWays out"
    with pytest.raises(ConfigError, match=message), open_run(config, store_of()):
        pass
    other = Store(Path("t"), replace(INFO, content_fingerprint="f"), {})
    with (
        pytest.raises(ConfigError, match="has other content than when the run began"),
        open_run(config_in(tmp_path), other),
    ):
        pass


def test_an_option_younger_than_the_run(tmp_path: Path) -> None:
    with open_run(config_in(tmp_path), store_of()) as (folder, _):
        folder.step_folder(5).mkdir(parents=True)
    values = yaml.safe_load(folder.config.read_text())
    del values["lora_dora"]
    folder.config.write_text(yaml.safe_dump(values))
    with open_run(config_in(tmp_path), store_of()) as (_, checkpoint):
        assert checkpoint is not None


def test_an_old_run_is_moved_aside(tmp_path: Path) -> None:
    for number in range(3):
        with open_run(config_in(tmp_path / "run", resume=False), store_of()) as (folder, _):
            (folder.path / "mark").write_text(str(number))
    marks = {path.name: (path / "mark").read_text() for path in tmp_path.iterdir()}
    assert marks == {"run": "2", "run.before-1": "0", "run.before-2": "1"}


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        open_run(config_in(tmp_path), store_of()),
        pytest.raises(ConfigError, match="another process is training in this folder"),
        open_run(config_in(tmp_path), store_of()),
    ):
        pass


def test_a_failed_start_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with open_run(config_in(tmp_path / "run"), store_of()):
            raise ConfigError("weights do not fit")

    with pytest.raises(ConfigError, match="weights do not fit"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_what_is_saved(tmp_path: Path) -> None:
    def run(*steps: int) -> None:
        with open_run(config_in(tmp_path / "run"), store_of()) as (folder, _):
            folder.metrics.touch()
            for step in steps:
                folder.step_folder(step).mkdir(parents=True)
            raise OSError(errno.ENOSPC, "No space left on device")

    reason = r"run could not be written: No space left .*disk /.*Saved so far: "
    with pytest.raises(MachineError, match=f"{reason}nothing$"):
        run()
    with pytest.raises(MachineError, match=f"{reason}step_000020$"):
        run(10, 20)


def test_a_start_that_comes_too_late_removes_nothing(tmp_path: Path) -> None:
    """Nothing is trained yet by the first: its folder looks new."""
    config = config_in(tmp_path / "run")
    with (
        open_run(config, store_of()) as (folder, _),
        pytest.raises(ConfigError, match="another process is training"),
        open_run(config, store_of()),
    ):
        pytest.fail("both have the folder")
    assert folder.config.is_file()
    assert folder.environment.is_file()
