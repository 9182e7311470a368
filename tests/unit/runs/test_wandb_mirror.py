"""Weights & Biases mirrors a run: what it holds, read back, and that it can never stop one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft.config.train import TrainConfig
from csm_ft.runs import wandb_mirror
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.metrics import Tracker
from tests.helpers.sweep_folder import speech, write_take
from tests.helpers.wandb_files import offline_runs

ROOT = Path(__file__).resolve().parents[3]
OFFLINE = TrainConfig(wandb="offline")


class BrokenRun:
    """A W&B run that fails at every call."""

    offline = False

    def __init__(self) -> None:
        self.calls = 0

    def log(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        raise ConnectionError("no network")

    @property
    def summary(self) -> Any:
        return self.log()

    def finish(self, **_: Any) -> None:
        self.log()


def test_a_broken_mirror_never_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = BrokenRun()
    monkeypatch.setattr(wandb_mirror, "_init", lambda *_, **__: broken)
    with Tracker(RunFolder(tmp_path), OFFLINE, keep_bytes=0) as tracker:
        tracker.row("train", 1, {"loss": 2.0})
        tracker.row("train", 2, {"loss": 1.0})
        tracker.summary({"x": 1})
    assert [row["step"] for row in RunFolder(tmp_path).rows("train")] == [1, 2]
    assert broken.calls == 1, "it is given up after the first failure"
    message = " ".join(capsys.readouterr().out.split())
    assert message == "W&B: no network; continuing without it (metrics.jsonl has everything)"


def test_offline_runs_need_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with Tracker(RunFolder(tmp_path), TrainConfig(wandb="offline"), keep_bytes=0) as tracker:
        tracker.row("val", 1, {"val_loss": 1.0})
        assert tracker._mirror.is_offline
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


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
        "    assert tracker._mirror.is_offline\n"
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


# What is listened to


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that starts W&B's service itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | more


def sample(tracker: Tracker, folder: RunFolder, step: int, **more: Any) -> None:
    """Write one sample as a run does."""
    facts = {"step": step, "prompt": "ab", "text": "Hello.", "speaker": "", "context": []}
    stem = folder.sample_stem("ab", step)
    wave = speech(0.1 + step / 100, 0.5, np.random.default_rng(step))
    measured = {"seconds": round(0.1 + step / 100, 2), "silence_share": 0.25, "peak": 0.7}
    write_take(stem, wave, facts)
    tracker.row("sample", step, {**facts, "stopped_by_eos": True, **measured, **more})
    tracker.samples(step)


def test_samples_are_a_table_to_listen_to(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    wave = speech(0.2, 1.0, np.random.default_rng(0))
    write_take(folder.references / "clip0", wave, {"text": "Real.", "clip_id": "clip0"})
    with Tracker(folder, OFFLINE, keep_bytes=0) as tracker:
        tracker.row("val", 0, {"val_loss": 1.0})
        sample(tracker, folder, 0)
        sample(tracker, folder, 5, word_error_rate=0.5)
        tracker.row("train", 7, {"loss": 1.0})
    (recorded,) = offline_runs(tmp_path)
    latest, first = recorded.rows("samples")
    assert list(latest) == [
        *("step", "sentence", "recording", "duration_sec", "stopped_by_eos", "silence_share"),
        "word_error_rate",
    ]
    assert (latest["step"], latest["sentence"], latest["duration_sec"]) == (5, "Hello.", 0.15)
    assert (first["step"], first["word_error_rate"], first["stopped_by_eos"]) == (0, None, True)
    for row, step in ((latest, 5), (first, 0)):
        kept = folder.sample_stem("ab", step).with_suffix(".wav")
        assert row["recording"].read_bytes() == kept.read_bytes()
        assert recorded.folder in row["recording"].parents, "the folder is complete"
    (reference,) = recorded.rows("references")
    assert (reference["sentence"], reference["duration_sec"]) == ("Real.", pytest.approx(0.2))
    assert soundfile.info(reference["recording"]).duration == pytest.approx(0.2)
    assert len(recorded.tables["references"]) == 1
    steps = {row["_step"] for row in recorded.history if "speech/ab.path" in row}
    assert steps == {0, 5}
    assert "WANDB_DATA_DIR" not in os.environ


def test_damaged_facts_do_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.references.mkdir(parents=True)
    (folder.references / "clip0.json").write_text("{")
    with Tracker(folder, OFFLINE, keep_bytes=0) as tracker:
        tracker.row("val", 0, {"val_loss": 1.0})
    assert "continuing without it" in capsys.readouterr().out
    assert len(folder.rows("val")) == 1


def test_answers_that_are_text(tmp_path: Path) -> None:
    with Tracker(RunFolder(tmp_path), OFFLINE, keep_bytes=0) as tracker:
        facts = {"prompt": "ab", "text": "Hello.", "answer": "hallo", "is_complete": False}
        tracker.row("sample", 3, {"examples": 24, **facts})
        tracker.samples(3)
    (recorded,) = offline_runs(tmp_path)
    row = {"step": 3, "reference": "Hello.", "hypothesis": "hallo", "is_complete": False}
    assert recorded.rows("samples") == [row]


def go_past_checkpoint(folder: RunFolder) -> tuple[Tracker, int]:
    """Begin a run with a checkpoint at step 2 that goes on to step 5; return it and its bytes."""
    tracker = Tracker(folder, OFFLINE, keep_bytes=0)
    sample(tracker, folder, 2)
    tracker.row("train", 2, {"loss": 2.0})
    kept_bytes = tracker.num_bytes
    tracker.row("train", 3, {"loss": 1.5})
    sample(tracker, folder, 4)
    tracker.row("train", 5, {"loss": 1.0})
    return tracker, kept_bytes


def resume_and_read(folder: RunFolder, kept_bytes: int, *, num_killed: int) -> None:
    """Resume such a run, and read both parts as docs/wandb.md says: every step is there once."""
    with Tracker(folder, OFFLINE, keep_bytes=kept_bytes, resumed_at_step=2) as tracker:
        tracker.row("train", 3, {"loss": 1.5})
        sample(tracker, folder, 4)
    first, second = offline_runs(folder.path, num_killed=num_killed)
    assert "resumed_at_step" not in first.config
    assert (second.config["part_of"], second.config["part"]) == (first.id, 2)
    assert (second.id, second.name) == (f"{first.id}-part2", f"{folder.path.name} (part 2)")
    assert [row["step"] for row in second.rows("samples")] == [4, 2], "each once"
    start = second.config["resumed_at_step"]
    assert start == 2
    assert 3 in [row["_step"] for row in first.history], "both parts show this step"
    losses = [row for row in first.history if "train/loss" in row and row["_step"] <= start]
    losses += [row for row in second.history if "train/loss" in row]
    assert [(row["_step"], row["train/loss"]) for row in losses] == [(2, 2.0), (3, 1.5)]


def test_a_part_says_where_it_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tracker, kept_bytes = go_past_checkpoint(folder)
    tracker._mirror.finish(is_good=False)  # without what else the end of a run does
    resume_and_read(folder, kept_bytes, num_killed=0)


@pytest.mark.slow
def test_steps_after_a_kill_are_not_shown_twice(tmp_path: Path) -> None:
    """A process that is killed once W&B, which writes every 15 s, has its steps on disk."""
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from csm_ft.runs.folder import RunFolder; from tests.helpers.wandb_files import"
        " offline_runs; from tests.unit.runs.test_wandb_mirror import go_past_checkpoint\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "_, kept_bytes = go_past_checkpoint(folder)\n"
        "print(kept_bytes, flush=True)\n"
        "while not offline_runs(folder.path, num_killed=1)[0].history: time.sleep(0.2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    resume_and_read(RunFolder(tmp_path), int(killed.stdout), num_killed=1)


def test_no_secret_is_recorded(tmp_path: Path) -> None:
    secrets = {"WANDB_API_KEY": "5e" * 20, "HF_TOKEN": "hf_doNotShowThisToAnybody"}
    code = (
        "import sys; from pathlib import Path; from csm_ft.runs.folder import RunFolder\n"
        "from csm_ft.runs.metrics import Tracker; from tests.unit.runs import test_wandb_mirror\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "with Tracker(folder, test_wandb_mirror.OFFLINE, keep_bytes=0) as tracker:\n"
        "    test_wandb_mirror.sample(tracker, folder, 1)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment(**secrets), check=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    leaks = [
        path for path in files if any(s.encode() in path.read_bytes() for s in secrets.values())
    ]
    assert leaks == []


@pytest.mark.parametrize(("option", "project"), [({}, "mine"), ({"wandb_project": "p"}, "p")])
def test_settings_files_of_wandb_count(
    tmp_path: Path, option: dict[str, str], project: str
) -> None:
    """In a process of its own, which has not read W&B's settings yet."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/settings").write_text("[default]\nproject = mine\nentity = us\n")
    code = (
        "from pathlib import Path; from csm_ft.config.train import TrainConfig\n"
        "from csm_ft.runs.folder import RunFolder; from csm_ft.runs.metrics import Tracker\n"
        f"config = TrainConfig(wandb='offline', **{option!r})\n"
        "Path('run').mkdir()\n"
        "with Tracker(RunFolder(Path('run')), config, keep_bytes=0): pass\n"
    )
    more = {"PYTHONPATH": str(ROOT), "WANDB_CONFIG_DIR": str(tmp_path / "none")}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment(**more), check=True)
    (recorded,) = offline_runs(tmp_path / "run")
    assert (recorded.project, recorded.entity) == (project, "us")
