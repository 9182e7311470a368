"""Where workers run, decided without torch."""

from pathlib import Path

import pytest

from csm_ft.config.base import build
from csm_ft.errors import ConfigError
from csm_ft.sweep import slots
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.slots import check_parallel, choose_machine, visible_gpus


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("two_gpus")
def test_each_worker_sees_one_gpu() -> None:
    machine = choose_machine(SweepConfig(n_gpus=2, trials_per_gpu="2"), device="auto", threads=0)
    assert machine.device == "cuda"
    assert [(s.name, s.environment["CUDA_VISIBLE_DEVICES"]) for s in machine.slots] == [
        ("gpu2", "2"),
        ("gpu5", "5"),
        ("gpu2.1", "2"),
        ("gpu5.1", "5"),
    ]


@pytest.mark.usefixtures("two_gpus")
def test_too_many_gpus_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"n_gpus 3 is more than the 2 GPUs of this machine; use --n_gpus 2"
    ):
        choose_machine(SweepConfig(n_gpus=3), device="auto", threads=0)


def test_chosen_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    machine = choose_machine(
        SweepConfig.model_validate({"gpus": "3, 0", "trials_per_gpu": 2}), device="auto", threads=0
    )
    assert [slot.name for slot in machine.slots] == ["gpu3", "gpu0", "gpu3.1", "gpu0.1"]
    assert SweepConfig.model_validate({"gpus": 3}).gpus == ["3"]  # of a YAML file
    assert SweepConfig.model_validate({"gpus": [0, "1,2"]}).gpus == ["0", "1", "2"]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (["0"], "auto", "gpus 0: this machine has no GPU '0'; it may use 2, 5"),
        (["5", "5"], "auto", "gpus 5,5: a GPU stands twice; use --trials_per_gpu"),
        (["5"], "cpu", "gpus 5 and --device cpu contradict each other"),
    ],
)
def test_chosen_gpus_must_be_there(gpus: list[str], device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_machine(SweepConfig(gpus=gpus), device=device, threads=0)


@pytest.mark.usefixtures("no_gpu")
def test_chosen_gpu_without_any() -> None:
    with pytest.raises(ConfigError, match="has no GPU '0'; nvidia-smi finds none"):
        choose_machine(SweepConfig(gpus=["0"]), device="auto", threads=0)


@pytest.mark.usefixtures("two_gpus")
def test_named_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        choose_machine(SweepConfig(), device="cuda:1", threads=0)


@pytest.mark.usefixtures("no_gpu")
def test_workers_share_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda _: set(range(8)))
    machine = choose_machine(SweepConfig(n_gpus=2, trials_per_gpu="2"), device="auto", threads=0)
    assert (machine.device, len(machine.slots), machine.threads) == ("cpu", 4, 2)
    assert {s.environment["CUDA_VISIBLE_DEVICES"] for s in machine.slots} == {""}
    assert {s.environment["OMP_NUM_THREADS"] for s in machine.slots} == {"2"}
    assert (
        "no GPU on this machine: 4 workers on the CPU, 2 of 8 cores each" in capsys.readouterr().out
    )
    with pytest.raises(ConfigError, match="finds no GPU"):
        choose_machine(SweepConfig(), device="cuda", threads=0)


@pytest.mark.usefixtures("two_gpus")
def test_device_cpu_ignores_gpus() -> None:
    machine = choose_machine(SweepConfig(n_gpus=1), device="cpu", threads=3)
    assert (machine.device, machine.threads) == ("cpu", 3)


def test_nvidia_smi_counts_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]


@pytest.mark.usefixtures("two_gpus")
def test_auto_has_slots_to_grow_into() -> None:
    sweep = SweepConfig(n_gpus=2, trials_per_gpu="auto")
    machine = choose_machine(sweep, device="auto", threads=0)
    assert [slot.name for slot in machine.slots[:4]] == ["gpu2", "gpu5", "gpu2.1", "gpu5.1"]
    assert len(machine.slots) == 2 * slots.MOST_PER_GPU
    assert machine.threads == 1, "workers that join later need cores, too"
    on_cpu = choose_machine(sweep, device="cpu", threads=0)
    assert len(on_cpu.slots) == len(slots.os.sched_getaffinity(0))


def test_groups_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    sweep = SweepConfig(n_gpus=4, gpus_per_trial=2)
    machine = choose_machine(sweep, device="auto", threads=1)
    assert [(slot.name, slot.gpu) for slot in machine.slots] == [
        ("gpu0+1", "0,1"),
        ("gpu2+3", "2,3"),
    ]
    environment = machine.slots[1].environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("0", "2")
    chosen = choose_machine(
        SweepConfig(gpus=["3", "1"], gpus_per_trial=2), device="auto", threads=1
    )
    assert [slot.name for slot in chosen.slots] == ["gpu3+1"]
    assert len(choose_machine(sweep, device="cpu", threads=1).slots) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_gpus": 3}, "gpus_per_trial 2 does not divide the 3 of n_gpus"),
        ({"gpus": ["0"]}, "gpus_per_trial 2 does not divide the 1 of gpus; use --gpus"),
        (
            {"trials_per_gpu": "2", "n_gpus": 2},
            "contradict each other: a GPU is a part of one trial",
        ),
        ({"trials_per_gpu": "auto", "n_gpus": 2}, "drop one of the two"),
    ],
)
def test_groups_must_be_whole(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(SweepConfig, {"gpus_per_trial": 2, **options})


def test_parallel_and_groups_must_agree() -> None:
    several = SweepConfig(n_gpus=2, gpus_per_trial=2)
    with pytest.raises(ConfigError, match="parallel off: each of the 2 GPUs"):
        check_parallel(several, "off")
    with pytest.raises(
        ConfigError, match=r"parallel fsdp: each trial has one GPU; .*gpus_per_trial 2"
    ):
        check_parallel(SweepConfig(), "fsdp")
    check_parallel(several, "auto")
    check_parallel(SweepConfig(), "off")
