"""metrics.jsonl is the truth; Weights & Biases can neither stop a run nor delay one without it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.errors import MachineError
from csm_ft.families.base import Term
from csm_ft.runs import metrics
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.metrics import Tracker, add, training_line, training_row

ROOT = Path(__file__).resolve().parents[3]
OFF = TrainConfig(wandb="off")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    with Tracker(RunFolder(tmp_path), OFF, keep_bytes=0) as tracker:
        tracker.row("train", 1, {"loss": 2.0})
        kept = tracker.num_bytes
        tracker.row("train", 2, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with Tracker(RunFolder(tmp_path), OFF, keep_bytes=kept) as tracker:
        tracker.row("val", 2, {"val_loss": 1.5})
    assert rows(tmp_path) == [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "val", "step": 2, "val_loss": 1.5},
    ]


def test_off_does_not_import_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from csm_ft.runs.folder import RunFolder; from"
        " csm_ft.runs.metrics import Tracker; from csm_ft.config.train import TrainConfig\nwith"
        f" Tracker(RunFolder(Path({str(tmp_path)!r})), TrainConfig(wandb='off'), keep_bytes=0) as"
        " t: t.row('val', 1, {'val_loss': 1.0})\nprint('wandb' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


class BrokenRun:
    """A W&B run that fails at every call."""

    calls = 0

    def __getattr__(self, name: str) -> Any:
        BrokenRun.calls += 1
        raise ConnectionError("no network")


def test_a_broken_mirror_never_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_start_wandb", lambda folder, config: BrokenRun())
    with Tracker(RunFolder(tmp_path), OFF, keep_bytes=0) as tracker:
        tracker.row("train", 1, {"loss": 2.0})
        tracker.row("train", 2, {"loss": 1.0})
        tracker.summary({"x": 1})
    assert len(rows(tmp_path)) == 2
    assert BrokenRun.calls == 1, "it is given up after the first failure"


def test_offline_runs_need_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with Tracker(RunFolder(tmp_path), TrainConfig(wandb="offline"), keep_bytes=0) as tracker:
        tracker.row("val", 1, {"val_loss": 1.0})
        assert tracker._wandb is not None
        assert tracker._wandb.offline
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize(
    ("environment", "wanted", "mode"),
    [
        ({}, "auto", "offline"),
        ({"WANDB_API_KEY": "k"}, "auto", "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "auto", "offline"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "online", "off"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "online"}, "offline", "offline"),
        ({"WANDB_MODE": "online"}, "auto", "online"),
        ({"WANDB_MODE": "online"}, "off", "off"),
        ({"WANDB_API_KEY": "k"}, "offline", "offline"),
    ],
)
def test_environment_decides_the_mode(
    environment: dict[str, str], wanted: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert metrics.choose_wandb_mode(wanted) == mode


@pytest.mark.usefixtures("no_login")
def test_login_counts_as_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert metrics.choose_wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert metrics.choose_wandb_mode("auto") == "offline"


def offline_parts(folder: Path) -> list[str]:
    names = sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))
    return [name.split("-", 3)[3] for name in names]


def record_offline(folder: Path, step: int) -> None:
    folder.mkdir(exist_ok=True)
    config = TrainConfig(wandb="offline")
    with Tracker(RunFolder(folder), config, keep_bytes=10**9) as tracker:
        tracker.row("val", step, {"val_loss": 1.0})


def test_resumed_offline_parts_have_ids_of_their_own(tmp_path: Path) -> None:
    record_offline(tmp_path / "one", 1)
    record_offline(tmp_path / "one", 2)
    shutil.rmtree(next((tmp_path / "one/wandb").glob("*-part2")))  # after it was synced
    record_offline(tmp_path / "one", 3)
    record_offline(tmp_path / "two", 1)
    first, third = offline_parts(tmp_path / "one")
    (other,) = offline_parts(tmp_path / "two")
    assert third == f"{first}-part3"
    assert other != first, "same settings in another folder are another run"


def test_older_runs_keep_their_id(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "val", "step": 1}\n')
    record_offline(tmp_path, 2)
    config = TrainConfig(wandb="offline")
    assert offline_parts(tmp_path) == [f"{tmp_path.name}-{config.fingerprint()}-part2"]


def test_unreachable_server_is_recorded_offline(tmp_path: Path) -> None:
    """In a process of its own, whose W&B fails quickly."""
    code = (
        "from pathlib import Path; from csm_ft.config.train import TrainConfig;"
        "from csm_ft.runs.folder import RunFolder; from csm_ft.runs import metrics\n"
        "import wandb; init = wandb.init\n"
        "def quick(**k):\n"
        "    k['settings'].init_timeout = 3\n"
        "    return init(**k)\n"
        "wandb.init = quick\n"
        f"folder = RunFolder(Path({str(tmp_path)!r}))\n"
        "with metrics.Tracker(folder, TrainConfig(wandb='online'), keep_bytes=0) as tracker:\n"
        "    tracker.row('val', 1, {'val_loss': 1.0})\n"
        "    assert tracker._wandb.offline\n"
    )
    environment = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recording offline" in " ".join(done.stdout.split())
    (recorded,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert recorded.stat().st_size > 500


TERMS = [Term(2.0, {"c0": 1.0}), Term(0.5, {"letters": 1.0, "spaces": 0.5})]


def step_sums(nats: float, count: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for place, part in enumerate(("c0", "letters", "spaces"), start=1):
        sums |= {f"nats_{part}": nats * place, f"count_{part}": count * place}
    counted = {"grad_norm": 3.0, "positions": 90, "padded": 100, "micro_batches": 2}
    timed = {"sec": 0.5, "data_sec": 0.1, "compute_sec": 0.3, "update_sec": 0.1}
    return {**sums, **counted, **timed, "audio_sec": 10.0, "steps": 1}


def test_training_rows_are_means_over_targets() -> None:
    totals: dict[str, float] = {}
    add(totals, step_sums(8.0, 4))
    add(totals, {**step_sums(1.0, 1), "grad_norm": 5.0, "positions": 60})
    row = training_row(totals, TERMS)
    # Nats 9, 18, 27 over 5, 10, 15 targets: each mean is over the targets of both steps.
    assert (row["c0"], row["letters"], row["spaces"]) == pytest.approx((1.8, 1.8, 1.8))
    assert row["loss"] == pytest.approx(2 * 9 / 5 + 0.5 * (18 + 13.5) / (10 + 7.5))
    assert row["grad_norm"] == 4.0
    assert row["padding_share"] == pytest.approx(1 - 150 / 200)
    assert (row["sec"], row["micro_batches"], row["audio_sec_per_sec"]) == (0.5, 2.0, 20.0)
    shown = {**row, "epoch": 0.5, "learning_rate": 1e-3, "eta_sec": 3661}
    line = training_line(7, 10, shown, TERMS)
    assert line.startswith("step 7/10  epoch 0.50  loss 4.5000 (c0 1.800 letters 1.800 spaces")
    assert line.endswith("lr 1.00e-03  20x real time, padding 25.0%, 1:01:01 left")


def test_a_part_without_targets_is_zero() -> None:
    row = training_row({**step_sums(8.0, 4), "nats_c0": 0.0, "count_c0": 0}, TERMS)
    assert row["c0"] == 0.0
    assert row["loss"] == pytest.approx(0.5 * 2.0)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Tracker(folder, OFF, keep_bytes=0) as tracker:
        folder.metrics.unlink()
        folder.metrics.symlink_to("/dev/full")
        with pytest.raises(MachineError, match=r"metrics\.jsonl could not be written: No space"):
            tracker.row("train", 1, {"loss": 2.0})
