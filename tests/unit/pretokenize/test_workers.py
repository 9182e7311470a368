"""Calls made by processes: their order, errors and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from csm_ft.errors import CodecError, MachineError
from csm_ft.pretokenize import encode
from csm_ft.pretokenize.workers import call_in_processes
from tests.helpers.pretokenizing import FakeEncoder, Work

ROOT = Path(__file__).resolve().parents[3]
# Prints the processes that make its calls, which take forever.
FOREVER = """
import os, time
from csm_ft.pretokenize.workers import call_in_processes

def call(item):
    print(os.getpid(), flush=True)
    time.sleep(1000 * item)

try:
    list(call_in_processes(call, [1] * 8, 2))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order(num_processes: int) -> None:
    def call(item: int) -> tuple[int, np.ndarray, int]:
        time.sleep(0.02 * (item % 3))
        return item, np.full(3, item), torch.get_num_threads()

    results = list(call_in_processes(call, range(9), num_processes))
    assert [item for item, _, _ in results] == list(range(9))
    assert all(isinstance(array, np.ndarray) and (array == i).all() for i, array, _ in results)
    assert {threads for _, _, threads in results} == {1}


def test_calls_are_made_by_other_processes() -> None:
    pids = set(call_in_processes(lambda _: os.getpid(), range(8), 2))
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.parametrize("num_processes", [1, 2])
def test_error_of_a_call_is_raised(num_processes: int) -> None:
    def call(item: int) -> int:
        if item == 3:
            raise CodecError("no such codec")
        return item

    with pytest.raises(CodecError, match="no such codec"):
        list(call_in_processes(call, range(5), num_processes))


def test_killed_process_is_a_message() -> None:
    def call(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(MachineError, match=r"was killed .*the same command continues; lower --num"):
        list(call_in_processes(call, range(5), 2))


@pytest.fixture
def forever() -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A program whose processes are at work, and these."""
    process = subprocess.Popen(
        [sys.executable, "-c", FOREVER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    process.stdout.close()


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_program(
    forever: tuple["subprocess.Popen[str]", list[int]],
) -> None:
    process, pids = forever
    assert all(map(is_alive, pids))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for_end(pids)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_ends_all_processes_quietly(
    forever: tuple["subprocess.Popen[str]", list[int]],
) -> None:
    process, pids = forever
    for pid in (*pids, process.pid):  # a terminal sends it to all of them
        os.kill(pid, signal.SIGINT)
    out, _ = process.communicate(timeout=100)
    assert out == "interrupted\n"
    wait_for_end(pids)


def test_processes_write_what_one_writes(
    work: Work, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = work.clips([0.5 + 0.1 * (5 * i % 12) for i in range(12)])
    flags = ("--batch_sec", "2", "--save_every", "3")
    assert work.run(rows, rows[:2], *flags) == 0
    calm, num_encoded = work.store(), encoder.num_encoded
    work.output.unlink()
    monkeypatch.setattr(encode, "_LEAST_SEC", 0.1)
    monkeypatch.setattr(encode, "num_cores", lambda: 2)
    assert work.run(rows, rows[:2], *flags) == 0
    assert encoder.num_encoded == num_encoded, "this process encoded nothing more"
    assert work.store().info == calm.info
    for i in range(12):
        assert work.store().splits["train"].clip(i) == calm.splits["train"].clip(i)


def test_few_seconds_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "num_cores", lambda: 8)
    assert [encode.choose_processes(4, sec) for sec in (1, 119, 120, 200, 1e5)] == [1, 1, 2, 3, 4]
