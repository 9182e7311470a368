"""Device, precision and determinism of a run. Imports torch."""

import ctypes
import gc
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from csm_ft.errors import MachineError, first_line

# Several runs may share a process (training/lanes.py), but torch has one random state for it.
random_state = threading.RLock()
_num_reproducible, _flags_before = 0, (False, True)
_COMPILERS = ("c++", "g++", "clang++", "cl")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def choose_device(wanted: str) -> str:
    """Return cpu, cuda or cuda:N; "auto" is cuda if available.

    Raises MachineError for a device that torch cannot use.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError(
            f"device {wanted}: this torch sees no GPU; check the driver with nvidia-smi, or use"
            " --device cpu"
        )
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise MachineError(
            f"device {wanted}: {first_line(error)}; use cpu, cuda or cuda:N (nvidia-smi lists them)"
        ) from error
    return wanted


def choose_dtype(wanted: str, device: str) -> str:
    """Return fp32 or bf16; "auto" is bf16 where the hardware supports it."""
    if wanted != "auto":
        return wanted
    has_bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def autocast(device: str, dtype: str) -> torch.autocast:
    """Return the context for forward passes: 16-bit autocast, or plain fp32."""
    low = torch.float16 if dtype == "fp16" else torch.bfloat16
    return torch.autocast(device.split(":")[0], dtype=low, enabled=dtype != "fp32")


def has_compiler() -> bool:
    """Tell whether this machine has what torch.compile calls."""
    return bool(os.environ.get("CXX")) or any(map(shutil.which, _COMPILERS))


@contextmanager
def reproducible(device: str, threads: int, seed: int) -> Iterator[None]:
    """Set threads, seed and deterministic algorithms; restores torch's settings afterwards."""
    threads_before, flushed_before = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # peaked logits give denormals, 20 times slower on CPUs
    with random_state:
        torch.manual_seed(seed)
    try:
        with _deterministic(enabled=device == "cpu"):
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.set_flush_denormal(flushed_before)


@contextmanager
def _deterministic(*, enabled: bool) -> Iterator[None]:
    """Ask for deterministic algorithms in this block, and in those of other threads until then."""
    global _num_reproducible, _flags_before
    settings: Any = torch.utils.deterministic  # whose attributes are properties of a class
    with random_state:
        if not _num_reproducible:
            mode = torch.get_deterministic_debug_mode()
            _flags_before = mode, settings.fill_uninitialized_memory
        _num_reproducible += 1
        if enabled:
            # Not by use_deterministic_algorithms, which imports torch.compile: a second or two.
            torch.set_deterministic_debug_mode("error")
            # It would clear every tensor before an operation writes it: a tenth of a step.
            settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        with random_state:
            _num_reproducible -= 1
            if not _num_reproducible:
                torch.set_deterministic_debug_mode(_flags_before[0])
                settings.fill_uninitialized_memory = _flags_before[1]


@contextmanager
def torch_state_kept(device: str) -> Iterator[None]:
    """Restore torch's random states and threads afterwards.

    For work beside a run that must not change it: making a network draws its first weights, and
    other libraries set the threads that they share with torch.
    """
    threads = torch.get_num_threads()
    kind, index = torch.device(device).type, torch.device(device).index
    gpus = [torch.cuda.current_device() if index is None else index] if kind == "cuda" else []
    with random_state, torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python from looking for cycles of objects: rows have none, and it looks at all of them.

    For what makes many objects and keeps them; cycles that are made meanwhile stay until it ends.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for the next time; with glibc, else no change.

    An encoder on the CPU frees hundreds of megabytes in every batch. To return them to the system,
    and to have them cleared and mapped again, took a third of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _flushes_denormals() -> bool:
    """Tell whether torch rounds denormals to zero in this thread; torch has no getter."""
    smallest_normal = torch.tensor(torch.finfo(torch.float32).tiny)
    return float(smallest_normal / 2) == 0
