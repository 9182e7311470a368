"""Where workers run: GPU slots, or shares of the CPU. Found without importing torch."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.sweep.config import SweepConfig


@dataclass(frozen=True)
class Slot:
    """One place for one worker."""

    name: str  # gpu0, gpu0.1 (the second on the GPU), cpu0
    environment: Mapping[str, str]  # set before anything is imported


@dataclass(frozen=True)
class Machine:
    """What the sweep runs on."""

    device: str  # of every trial: cuda (the one GPU that its worker sees) or cpu
    slots: list[Slot]
    threads: int  # of every trial


def choose_machine(sweep: SweepConfig, *, device: str, threads: int) -> Machine:
    """Return one slot per worker: trials_per_gpu for each of the GPUs.

    They are on the CPU where there is no GPU or `device` says so. Raises ConfigError when GPUs are
    asked for that are not there.
    """
    wanted = sweep.gpus
    num_workers = (len(wanted) or sweep.n_gpus) * sweep.trials_per_gpu
    num_cores = len(os.sched_getaffinity(0))
    threads = threads or max(1, num_cores // num_workers)
    gpus = visible_gpus() if device != "cpu" else []
    if device.startswith("cuda:"):
        raise ConfigError(
            f"device {device}: a sweep gives each worker its GPU; choose GPUs by --gpus"
            " 0,1 or CUDA_VISIBLE_DEVICES"
        )
    if not gpus and device == "cuda":
        raise ConfigError(
            "device cuda: nvidia-smi finds no GPU on this machine; drop --device, or use"
            " --device cpu"
        )
    if wanted:
        gpus = _check_wanted(wanted, gpus, device)
    if not gpus:
        reason = "as --device says" if device == "cpu" else "no GPU on this machine"
        return _cpu_machine(reason, num_workers, threads, num_cores)
    if not wanted and sweep.n_gpus > len(gpus):
        raise ConfigError(
            f"n_gpus {sweep.n_gpus} is more than the {len(gpus)} GPUs of this machine; use --n_gpus"
            f" {len(gpus)}, with --trials_per_gpu above 1 if several trials fit one GPU"
        )
    slots = []
    for place in range(sweep.trials_per_gpu):  # all GPUs get their first worker first
        for gpu in gpus[: len(wanted) or sweep.n_gpus]:
            name = f"gpu{gpu}.{place}" if place else f"gpu{gpu}"
            slots.append(Slot(name, _environment(gpu, threads)))
    return Machine("cuda", slots, threads)


def _check_wanted(wanted: list[str], gpus: list[str], device: str) -> list[str]:
    """Return the GPUs of --gpus; ConfigError for one that is not there, or stands twice."""
    asked = ",".join(wanted)
    if device == "cpu":
        raise ConfigError(f"gpus {asked} and --device cpu contradict each other; drop one of them")
    missing = [name for name in wanted if name not in gpus]
    if missing:
        have = f"it may use {', '.join(gpus)}" if gpus else "nvidia-smi finds none"
        raise ConfigError(f"gpus {asked}: this machine has no GPU {missing[0]!r}; {have}")
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"gpus {asked}: a GPU stands twice; use --trials_per_gpu for two on one")
    return wanted


def _cpu_machine(reason: str, num_workers: int, threads: int, num_cores: int) -> Machine:
    console.print(
        f"{reason}: {num_workers} worker{'s' * (num_workers != 1)} on the CPU, {threads} of"
        f" {num_cores} cores each"
    )
    if num_workers * threads > num_cores:
        console.print(
            f"[yellow]{num_workers} workers share {num_cores} cores; fewer workers (--n_gpus) may"
            " be as fast[/]"
        )
    slots = [Slot(f"cpu{i}", _environment("", threads)) for i in range(num_workers)]
    return Machine("cpu", slots, threads)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "-L"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        gpus = [line for line in listed.splitlines() if line.startswith("GPU ")]
    else:
        gpus = list(Path("/proc/driver/nvidia/gpus").glob("*"))
    return [str(number) for number in range(len(gpus))]


def _environment(gpu: str, threads: int) -> dict[str, str]:
    return {
        "CUDA_VISIBLE_DEVICES": gpu,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
