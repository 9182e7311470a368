"""Where workers run: GPU slots, or shares of the CPU. Found without importing torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.worker_process import Slot, Worker, WorkerProcess

MOST_PER_GPU = 8  # workers that --trials_per_gpu auto tries at most


class Machine(Protocol):
    """What the sweep runs on."""

    @property
    def device(self) -> str:
        """Device of every trial: cuda (the one GPU that its worker sees) or cpu."""
        ...

    @property
    def threads(self) -> int:
        """Threads of every trial."""
        ...

    @property
    def slots(self) -> list[Slot]:
        """The slots that there are now; those of a cluster come and go."""
        ...

    def start(self, slot: Slot, trainer: str, log: Path) -> Worker:
        """Start a worker in a slot."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True)
class LocalMachine:
    """The machine that the orchestrator runs on."""

    device: str
    slots: list[Slot]
    threads: int

    def start(self, slot: Slot, trainer: str, log: Path) -> Worker:
        """Start a worker process."""
        return WorkerProcess(slot, trainer, log)

    def close(self) -> None:
        """Do nothing: the machine stays."""


def choose_machine(sweep: SweepConfig, *, device: str, threads: int) -> LocalMachine:
    """Return one slot per worker: trials_per_gpu for each of the GPUs, with auto the most.

    They are on the CPU where there is no GPU or `device` says so. Raises ConfigError when GPUs are
    asked for that are not there.
    """
    wanted = sweep.gpus
    num_workers = (len(wanted) or sweep.n_gpus) * sweep.workers_per_gpu
    num_cores = len(os.sched_getaffinity(0))
    # Workers that join the others must find a core: a trial keeps the threads that it began with.
    threads = threads or (1 if sweep.is_packing else max(1, num_cores // num_workers))
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
        if sweep.is_packing:
            num_workers = max(1, num_cores // threads)
            console.print(f"{reason}: 1 to {num_workers} workers on the CPU, {threads} cores each")
            return LocalMachine("cpu", _cpu_slots(num_workers, threads), threads)
        return _cpu_machine(reason, num_workers, threads, num_cores)
    if not wanted and sweep.n_gpus > len(gpus):
        raise ConfigError(
            f"n_gpus {sweep.n_gpus} is more than the {len(gpus)} GPUs of this machine; use --n_gpus"
            f" {len(gpus)}, with --trials_per_gpu above 1 if several trials fit one GPU"
        )
    slots = []
    num_places = MOST_PER_GPU if sweep.is_packing else sweep.workers_per_gpu
    for place in range(num_places):  # all GPUs get their first worker first
        for gpu in gpus[: len(wanted) or sweep.n_gpus]:
            name = f"gpu{gpu}.{place}" if place else f"gpu{gpu}"
            slots.append(Slot(name, _environment(gpu, threads), gpu=gpu, place=place))
    return LocalMachine("cuda", slots, threads)


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


def _cpu_machine(reason: str, num_workers: int, threads: int, num_cores: int) -> LocalMachine:
    console.print(
        f"{reason}: {num_workers} worker{'s' * (num_workers != 1)} on the CPU, {threads} of"
        f" {num_cores} cores each"
    )
    if num_workers * threads > num_cores:
        console.print(
            f"[yellow]{num_workers} workers share {num_cores} cores; fewer workers (--n_gpus) may"
            " be as fast[/]"
        )
    return LocalMachine("cpu", _cpu_slots(num_workers, threads), threads)


def _cpu_slots(num_workers: int, threads: int) -> list[Slot]:
    return [Slot(f"cpu{i}", _environment("", threads), place=i) for i in range(num_workers)]


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
