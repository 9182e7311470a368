"""What is looked at: the machine, the folders, the hub, W&B and the judges."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote

import torch

from csm_ft import hub
from csm_ft.device import choose_device, choose_dtype, has_compiler
from csm_ft.doctor.config import DoctorConfig
from csm_ft.errors import MachineError, StoreError
from csm_ft.evaluate.judge import open_judges
from csm_ft.families.base import Family
from csm_ft.families.stores import open_store
from csm_ft.runs.wandb_settings import choose_reachable_wandb_mode, choose_wandb_mode

_GB = 1e9
_LEAST_DISK_GB = 20.0  # weights and optimiser state of a model of 1.6 billion weights, once
_CUDA_TORCH = "pip install torch==2.13.0 (the CUDA build), or look at what pip installed"


class State(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    STOPS = "stops"


@dataclass(frozen=True)
class Finding:
    """One line of the report, and what can be done about it."""

    name: str
    text: str
    state: State = State.OK
    way_out: str = ""


def examine(config: DoctorConfig, family: Family) -> Iterator[Finding]:
    """Yield the findings, the quick ones first."""
    yield _processor()
    yield from _devices(config.device)
    yield _disk(Path(config.output_dir))
    yield _tokens(Path(config.data))
    yield from _hub(family, ask=config.hub)
    yield _wandb()
    yield from _judges()


def next_command(config: DoctorConfig) -> str:
    """Return what to run next."""
    if Path(config.data).is_file():
        return f"python train.py --data {quote(config.data)}"
    return f"python pretokenize.py --train_data metadata.jsonl --output {quote(config.data)}"


def _processor() -> Finding:
    total, free = (
        os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") / _GB
        for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")
    )
    num_cores = len(os.sched_getaffinity(0))
    return Finding("processor", f"{num_cores} cores, {total:.0f} GB memory, {free:.0f} GB unused")


def _devices(wanted: str) -> Iterator[Finding]:
    """Yield what training will run on."""
    try:
        device = choose_device(wanted)
    except MachineError as error:
        yield Finding("device", str(error).removeprefix("device "), State.STOPS)
        return
    dtype = choose_dtype("auto", device)
    if device == "cpu":
        driver = _driver()
        text = f"cpu in {dtype}, torch {torch.__version__}: enough for the tiny models"
        if driver:
            text += f"; the machine has an NVIDIA driver {driver}, which this torch does not use"
        way_out = _CUDA_TORCH if driver else ""
        yield Finding("device", text, State.NOTE, way_out)
        return
    for index in range(torch.cuda.device_count()):
        free, total = (size / _GB for size in torch.cuda.mem_get_info(index))
        name = torch.cuda.get_device_name(index)
        text = f"cuda:{index} {name}, {free:.1f} of {total:.1f} GB free, {dtype}"
        is_used = free < total / 2
        yield Finding(
            "device",
            f"{text}, torch {torch.__version__}, driver {_driver() or 'not known'}",
            State.NOTE if is_used else State.OK,
            "another program holds its memory (nvidia-smi names it)" if is_used else "",
        )
    if not has_compiler():
        text = "no C++ compiler: --compile auto leaves layers as they are, and steps take longer"
        yield Finding("compiler", text, State.NOTE, "install one, e.g. apt-get install g++")


def _driver() -> str:
    """Return the version of the NVIDIA driver, or ""."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = found.stdout.split()
    return lines[0] if found.returncode == 0 and lines else ""


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free / _GB
    text = f"{free:.0f} GB free for {folder}"
    if not os.access(there, os.W_OK):
        return Finding("disk", f"{there} cannot be written to", State.STOPS, "name --output_dir")
    if free < _LEAST_DISK_GB:
        need = f"a checkpoint of a model of 1.6 billion weights takes {_LEAST_DISK_GB:.0f} GB"
        return Finding("disk", f"{text}; {need}", State.NOTE, "name another --output_dir")
    return Finding("disk", text)


def _tokens(path: Path) -> Finding:
    if not path.is_file():
        return Finding("tokens", f"{path} is not there yet", State.NOTE)
    try:
        store = open_store(path)
    except StoreError as error:
        return Finding("tokens", str(error), State.STOPS)
    counts = ", ".join(f"{len(split)} {name} clips" for name, split in store.splits.items())
    return Finding("tokens", f"{path}: {counts}")


def _hub(family: Family, *, ask: bool) -> Iterator[Finding]:
    """Yield whether the weights are here that training starts from by default."""
    for name in family.hub_names:
        if hub.has_weights(name):
            yield Finding("hub", f"{name}: on this disk")
        elif not ask:
            yield Finding("hub", f"{name}: not on this disk, not asked for", State.NOTE)
        elif problem := hub.access_problem(name):
            yield Finding("hub", f"{name}: {problem}", State.NOTE)
        else:
            yield Finding("hub", f"{name}: access granted, to be downloaded")


def _wandb() -> Finding:
    mode = choose_wandb_mode("auto")
    if mode == "online":
        is_reached = choose_reachable_wandb_mode("auto") == mode  # says so if not
        return Finding("W&B", "online") if is_reached else Finding("W&B", "offline", State.NOTE)
    way_out = "put WANDB_API_KEY into .env, or run `wandb login`"
    return Finding("W&B", mode, State.NOTE, way_out if mode == "offline" else "")


def _judges() -> Iterator[Finding]:
    """Yield the judges of samples that open, and why others do not."""
    judges = open_judges("auto", "auto")
    if versions := judges.versions():
        yield Finding("judges", ", ".join(versions.values()))
    for reason in judges.missing():
        yield Finding("judges", reason, State.NOTE)
