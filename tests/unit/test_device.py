"""Settings of torch during a run, and of memory."""

import ctypes
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from csm_ft.device import collector_paused, reproducible

ROOT = Path(__file__).resolve().parents[2]


def flushes_denormals() -> bool:
    return float(torch.tensor(1e-38) / 10) == 0


@pytest.mark.parametrize("before", [True, False])
def test_denormals_are_as_before_a_run(before: bool) -> None:
    torch.set_flush_denormal(before)
    try:
        with reproducible("cpu", 1, 0):
            assert flushes_denormals()
        assert flushes_denormals() is before
    finally:
        torch.set_flush_denormal(False)


def test_operations_are_deterministic_without_clearing_memory_first() -> None:
    settings: Any = torch.utils.deterministic
    before = settings.fill_uninitialized_memory
    with reproducible("cpu", 1, 0):
        assert torch.are_deterministic_algorithms_enabled()
        assert not settings.fill_uninitialized_memory
    assert settings.fill_uninitialized_memory is before


@pytest.mark.parametrize("before", [True, False])
def test_collector_is_as_before_a_pause(before: bool) -> None:
    (gc.enable if before else gc.disable)()
    try:
        with pytest.raises(ValueError, match="inside"), collector_paused():
            _raise_if_paused()
        assert gc.isenabled() == before
    finally:
        gc.enable()


def _raise_if_paused() -> None:
    if not gc.isenabled():
        raise ValueError("inside")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_freed_memory_is_kept() -> None:
    """Pages of a large array are mapped once, and not again for each further array."""
    code = (
        "import resource, numpy as np\n"
        "from csm_ft.device import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(8): np.ones(1 << 23)\n"  # 64 MB, above what glibc keeps by itself
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "returned = faults(); keep_freed_memory(); faults()\n"
        "print(returned, faults())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    returned, kept = map(int, done.stdout.split())
    assert kept < returned / 10
