"""pretokenize.py: spans of long recordings checked, and Mimi in two processes beside one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import MimiConfig, MimiModel

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, median
from benchmarks.timing import ROOT, children_clock
from csm_ft.codecs.mimi import Mimi
from csm_ft.device import keep_freed_memory
from csm_ft.families.csm.config import CsmPretokenizeConfig
from csm_ft.families.csm.export.transformers import random_codec
from csm_ft.families.csm.family import CsmFamily
from csm_ft.pretokenize.clips import Job
from csm_ft.pretokenize.rejections import Rejections
from csm_ft.pretokenize.run import usable_rows
from csm_ft.pretokenize.workers import call_in_processes

NUM_ROWS, NUM_FILES = {"small": 60_000, "tiny": 40}, {"small": 1041, "tiny": 4}
NUM_BATCHES, CLIPS_PER_BATCH, CLIP_SEC = {"small": 6, "tiny": 2}, 4, {"small": 7.5, "tiny": 0.5}
RATE_HZ = 16_000


def measure(config: BenchmarkConfig) -> Found:
    """Time the checks of a first and a second run, then the processes."""
    with tempfile.TemporaryDirectory() as folder:
        checked = _time_checks(Path(folder), config)
    return {**checked, **_time_processes(config)}


def write_spans(folder: Path, num_rows: int, num_files: int) -> Path:
    """Write recordings of noise and a table of spans of one second in them; return the table."""
    per_file = -(-num_rows // num_files)
    noise = np.random.default_rng(0).normal(0, 1600, RATE_HZ * per_file).astype(np.int16)
    rows = []
    for file in range(num_files):
        noise[0] = file  # other bytes in each
        soundfile.write(folder / f"{file}.wav", noise, RATE_HZ)
        for start in range(min(per_file, num_rows - len(rows))):
            text = f"Sentence {start} of recording {file}."
            rows.append({"path": f"{file}.wav", "text": text, "start": start, "end": start + 0.9})
    path = folder / "train.json"
    path.write_text(json.dumps(rows))
    return path


def _time_checks(folder: Path, config: BenchmarkConfig) -> Found:
    table = write_spans(folder, NUM_ROWS[config.size], NUM_FILES[config.size])
    options = CsmPretokenizeConfig(
        train_data=str(table), output=str(folder / "tokens.hdf5"), codec="melrvq"
    )
    job = Job(options, "csm", CsmFamily().open_encoder(options, "cpu"))

    def check() -> tuple[float, float]:
        return _time(lambda: usable_rows(job, Rejections(options)))

    (first_sec, cpu_sec), (again_sec, _) = check(), check()
    return {
        "pretokenize.check_first_sec": median([first_sec]),
        "pretokenize.check_first_cores": median([cpu_sec / first_sec]),
        "pretokenize.check_again_sec": median([again_sec]),
    }


def _time_processes(config: BenchmarkConfig) -> Found:
    """Time the processes from a fresh one, as pretokenize.py is: they would copy what it holds."""
    command = [sys.executable, "-m", "benchmarks.pretokenize", config.size]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {f"pretokenize.{name}": median([value]) for name, value in found.items()}


def time_processes(size: str) -> dict[str, float]:
    """Encode batches by two processes; half of them by this one, and their clips one at a time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MimiModel(MimiConfig()) if size == "small" else random_codec()
    codec = Mimi(model, num_codebooks=32, source="random", weights_digest="")
    random, length = np.random.default_rng(0), round(CLIP_SEC[size] * codec.sample_rate_hz)
    batches = [
        list(random.normal(0, 0.1, (CLIPS_PER_BATCH, length)).astype(np.float32))
        for _ in range(NUM_BATCHES[size])
    ]
    keep_freed_memory()  # as pretokenize.py does, and its processes
    before = os.times()
    two, two_cpu = _time(lambda: list(call_in_processes(codec.encode, batches, 2)))
    after = os.times()
    system = after.children_system - before.children_system
    user = after.children_user - before.children_user
    half = batches[::2]
    one, _ = _time(lambda: list(call_in_processes(codec.encode, half, 1)))
    alone, alone_cpu = _time(lambda: [codec.encode([wave]) for batch in half for wave in batch])
    return {
        "two_processes_ratio": 2 * one / two,
        "two_processes_alone_ratio": 2 * alone / two,
        "alone_ratio": 2 * alone_cpu / two_cpu,
        "system_percent": 100 * system / max(system + user, 1e-9),
    }


def _time(run: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and the CPU-seconds of a call, of its processes, too."""
    began, began_cpu = time.perf_counter(), time.process_time() + children_clock()
    run()
    return time.perf_counter() - began, time.process_time() + children_clock() - began_cpu


if __name__ == "__main__":
    print(json.dumps(time_processes(sys.argv[1])))
