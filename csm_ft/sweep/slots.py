"""Where workers run: GPU slots, or shares of the CPU. Found without importing torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.lanes import LaneProcess, LaneWorker, with_lanes
from csm_ft.sweep.team import environment_of_ranks
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
    _processes: dict[str, LaneProcess] = field(default_factory=dict)

    def start(self, slot: Slot, trainer: str, log: Path) -> Worker:
        """Start a worker process, or a lane of one."""
        if not slot.lane_of:
            return WorkerProcess(slot, trainer, log)
        process = self._processes.get(slot.process)
        if process is None or process.is_spent:
            shared = [one for one in self.slots if one.process == slot.process]
            process = self._processes[slot.process] = LaneProcess(shared, trainer, log)
        return LaneWorker(slot, process)

    def with_lanes(self, num_lanes: int) -> "LocalMachine":
        """Return it with so many lanes in each of its workers."""
        if num_lanes == 1:
            return self
        console.print(f"{num_lanes} trials in each worker share their passes")
        return replace(self, slots=with_lanes(self.slots, num_lanes))

    def close(self) -> None:
        """Do nothing: the machine stays."""


def choose_machine(sweep: SweepConfig, *, device: str, threads: int) -> LocalMachine:
    """Return one slot per worker: trials_per_gpu for each of the GPUs, with auto the most.

    With gpus_per_trial, one for each group of GPUs. They are on the CPU where there is no GPU or
    `device` says so. Raises ConfigError when GPUs are asked for that are not there.
    """
    wanted, num_ranks = sweep.gpus, sweep.gpus_per_trial
    num_processes = sweep.num_gpus * sweep.workers_per_gpu
    num_cores = len(os.sched_getaffinity(0))
    # Workers that join the others must find a core: a trial keeps the threads that it began with.
    threads = threads or (1 if sweep.is_packing else max(1, num_cores // num_processes))
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
        return _cpu_machine(reason, num_processes // num_ranks, num_ranks, threads)
    if not wanted and sweep.n_gpus > len(gpus):
        raise ConfigError(
            f"n_gpus {sweep.n_gpus} is more than the {len(gpus)} GPUs of this machine; use --n_gpus"
            f" {len(gpus)}, with --trials_per_gpu above 1 if several trials fit one GPU"
        )
    slots = []
    num_places = MOST_PER_GPU if sweep.is_packing else sweep.workers_per_gpu
    for place in range(num_places):  # all GPUs get their first worker first
        for first in range(0, sweep.num_gpus, num_ranks):
            group = gpus[first : first + num_ranks]
            name = f"gpu{'+'.join(group)}" + (f".{place}" if place else "")
            gpu = ",".join(group)
            slots.append(Slot(name, _environment(gpu, threads, num_ranks), gpu=gpu, place=place))
    return LocalMachine("cuda", slots, threads)


def check_parallel(sweep: SweepConfig, parallel: str) -> None:
    """Raise ConfigError where --parallel and --gpus_per_trial contradict each other."""
    if sweep.gpus_per_trial > 1 and parallel == "off":
        raise ConfigError(
            f"parallel off: each of the {sweep.gpus_per_trial} GPUs of a trial would train the same"
            " model; use --parallel ddp or fsdp, or --gpus_per_trial 1"
        )
    if sweep.gpus_per_trial == 1 and parallel in ("ddp", "fsdp"):
        raise ConfigError(
            f"parallel {parallel}: each trial has one GPU; give it several with --gpus_per_trial 2,"
            " or drop --parallel"
        )


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


def _cpu_machine(reason: str, num_workers: int, num_ranks: int, threads: int) -> LocalMachine:
    num_cores = len(os.sched_getaffinity(0))
    ranks = f" of {num_ranks} processes" if num_ranks > 1 else ""
    console.print(
        f"{reason}: {num_workers} worker{'s' * (num_workers != 1)}{ranks} on the CPU,"
        f" {threads * num_ranks} of {num_cores} cores each"
    )
    if num_workers * num_ranks * threads > num_cores:
        console.print(
            f"[yellow]{num_workers} workers share {num_cores} cores; fewer workers (--n_gpus) may"
            " be as fast[/]"
        )
    return LocalMachine("cpu", _cpu_slots(num_workers, threads, num_ranks), threads)


def _cpu_slots(num_workers: int, threads: int, num_ranks: int = 1) -> list[Slot]:
    environment = _environment("", threads, num_ranks)
    return [Slot(f"cpu{i}", environment, place=i) for i in range(num_workers)]


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


def _environment(gpu: str, threads: int, num_ranks: int = 1) -> dict[str, str]:
    return {
        "CUDA_VISIBLE_DEVICES": gpu,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        **environment_of_ranks(num_ranks),
    }
