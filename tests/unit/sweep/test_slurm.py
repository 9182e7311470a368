"""The Slurm script, with stubs in the place of Slurm, Ray and the sweep."""

import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts/slurm_sweep.sh"
STUBS = {
    "scontrol": 'echo "scontrol $*" >> calls\n[ "$1" = show ] && printf "n1\\nn2\\n" || true',
    "srun": 'echo "srun $*" >> calls\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"',
    "ray": "exec sleep 5",
    "python": 'trap "echo saved >> calls; exit 130" TERM\necho "python $*" >> calls\nwhile [ ! -e done ]; do sleep 0.05; done',
}


def start(folder: Path) -> "subprocess.Popen[bytes]":
    for name, body in STUBS.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": "7",
        "RAY_HEAD_SEC": "0.1",
    }
    job = subprocess.Popen(["bash", str(SCRIPT), "--n_trials", "9"], cwd=folder, env=environment)
    deadline_sec = time.monotonic() + 60
    while "python" not in (folder / "calls").read_text() if (folder / "calls").exists() else True:
        assert time.monotonic() < deadline_sec
        time.sleep(0.02)
    return job


def test_sweep_runs_on_all_nodes(tmp_path: Path) -> None:
    job = start(tmp_path)
    (tmp_path / "done").touch()
    assert job.wait(timeout=60) == 0
    calls = (tmp_path / "calls").read_text()
    assert "--nodelist=n1 ray start --head --block --port=20007" in calls
    assert "--nodelist=n2 ray start --block --address=n1:20007" in calls
    assert "python sweep.py --cluster n1:20007 --n_trials 9" in calls
    assert "requeue" not in calls


def test_preempted_job_saves_and_queues_again(tmp_path: Path) -> None:
    job = start(tmp_path)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 0
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines[-2:] == ["saved", "scontrol requeue 7"]
