"""What `python -m csm_ft.doctor` says of a machine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from csm_ft.doctor import checks
from csm_ft.doctor.__main__ import main
from csm_ft.doctor.checks import Finding, State
from csm_ft.doctor.config import DoctorConfig
from csm_ft.families import names, open_family

GB = 10**9


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without judges, which take seconds to open, and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    judges = SimpleNamespace(versions=lambda: {"words": "a judge 1.0"}, missing=lambda: ["no ears"])
    monkeypatch.setattr(checks, "open_judges", lambda *_: judges)


def findings(name: str, **options: Any) -> list[Finding]:
    config = DoctorConfig(**{"hub": False, "device": "cpu", **options})
    found = list(checks.examine(config, open_family("csm")))
    return [finding for finding in found if finding.name == name]


def test_a_machine_that_can_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--hub", "false", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "cpu in fp32" in out
    assert "a judge 1.0" in out
    assert "no ears" in out
    assert "sesame/csm-1b: not on this disk" in out
    assert out.endswith("python pretokenize.py --train_data metadata.jsonl --output tokens.hdf5\n")


def test_next_command_trains_where_tokens_are(tokens: Path) -> None:
    (found,) = findings("tokens", data=str(tokens))
    assert found.state == State.OK
    assert "train clips" in found.text
    command = checks.next_command(DoctorConfig(data=str(tokens)))
    assert command == f"python train.py --data {tokens}"


def test_what_stops_training_is_no_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokens.hdf5").write_bytes(b"not HDF5")
    assert main(["--hub", "false", "--device", "cpu", "--family", "csm"]) == 1
    out = capsys.readouterr().out
    assert "tokens.hdf5" in out
    assert "next:" not in out


def test_unknown_device_stops() -> None:
    (found,) = findings("device", device="cuda:7")
    assert found.state == State.STOPS
    assert found.text.startswith("cuda:7: this torch sees no GPU")


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free_and_total = {0: (79 * GB, 80 * GB), 1: (3 * GB, 80 * GB)}
    monkeypatch.setattr(checks, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(checks, "choose_dtype", lambda *_: "bf16")
    monkeypatch.setattr(checks, "_driver", lambda: "550.54")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_and_total.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    free, used = findings("device", device="auto")
    assert free.state == State.OK
    assert free.text.startswith("cuda:0 Card 0, 79.0 of 80.0 GB free, bf16")
    assert free.text.endswith("driver 550.54")
    assert used.state == State.NOTE
    assert "another program" in used.way_out
    monkeypatch.setattr(checks, "has_compiler", lambda: True)
    assert not findings("compiler", device="auto")
    monkeypatch.setattr(checks, "has_compiler", lambda: False)
    (compiler,) = findings("compiler", device="auto")
    assert compiler.state == State.NOTE
    assert "g++" in compiler.way_out


def test_driver_that_torch_does_not_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_driver", lambda: "550.54")
    (found,) = findings("device")
    assert "driver 550.54, which this torch does not use" in found.text
    assert "pip install torch" in found.way_out


@pytest.mark.parametrize(("output", "driver"), [("550.54.15\n550.54.15\n", "550.54.15"), ("", "")])
def test_driver_is_asked_of_nvidia_smi(
    output: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{output}'\n".replace("\n'", "\\n'"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert checks._driver() == driver


def test_little_space_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * GB))
    (found,) = findings("disk", output_dir="exp/deep/folder")
    assert found.state == State.NOTE
    assert found.text.startswith("4 GB free for exp/deep/folder")


@pytest.mark.parametrize(
    ("problem", "is_cached", "text", "state"),
    [
        ("", False, "access granted", State.OK),
        ("gated: accept its terms", False, "gated: accept its terms", State.NOTE),
        ("", True, "on this disk", State.OK),
    ],
)
def test_access_to_the_hub(
    problem: str, is_cached: bool, text: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.hub, "has_weights", lambda _: is_cached)
    monkeypatch.setattr(checks.hub, "access_problem", lambda _: problem)
    found = findings("hub", hub=True)
    assert [finding.state for finding in found] == [state, state]
    assert all(text in finding.text for finding in found)


@pytest.mark.parametrize("name", names())
def test_every_family_says_what_it_downloads(name: str) -> None:
    assert open_family(name).hub_names


@pytest.mark.parametrize(("is_reachable", "text"), [(True, "online"), (False, "offline")])
def test_wandb_is_online_where_its_server_answers(
    is_reachable: bool, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("csm_ft.runs.wandb_settings._is_reachable", lambda: is_reachable)
    (found,) = findings("W&B")
    assert found.text == text
