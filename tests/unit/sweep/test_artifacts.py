"""Recordings as Optuna's artifacts: linked once, and played by optuna-dashboard."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.sweep.artifacts import add_recordings
from tests.conftest import ROOT
from tests.helpers.sweep_folder import make_run

SENTENCES = {"aa": ("One, two.", "anna"), "bb": ("Three?", "anna")}


def make_study(out: Path) -> tuple[optuna.Study, SweepFolder]:
    """A study of one trial, whose run left recordings at steps 90 and 180."""
    folder = SweepFolder(out)
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.create_study(storage=storage, study_name="demo")
    run = folder.trial(0)
    rng = np.random.default_rng(0)
    make_run(run.path, SENTENCES, curve=[(720, 1.0)], last_step=180, quality=1.0, rng=rng)
    return study, folder


def finished_study(out: Path) -> SweepFolder:
    study, folder = make_study(out)
    trial = study.ask()
    add_recordings(trial, folder.trial(0), folder, 720)
    study.tell(trial, 1.0)
    return folder


def test_recordings_are_linked_and_named(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path)
    trial = study.ask()
    add_recordings(trial, folder.trial(0), folder, 720)
    add_recordings(trial, folder.trial(0), folder, 720)  # again, after a kill
    study.tell(trial, 1.0)
    frozen = study.trials[0]
    found = {meta.filename: meta for meta in get_all_artifact_meta(frozen, storage=study._storage)}
    assert set(found) == {"One, two.wav", "Three?.wav"}
    assert len(list(folder.artifacts.iterdir())) == 2
    meta, wav = found["One, two.wav"], folder.trial(0).samples / "aa/step_000090.wav"
    assert meta.mimetype == "audio/wav"
    with FileSystemArtifactStore(folder.artifacts).open_reader(meta.artifact_id) as file:
        assert file.read() == wav.read_bytes()
    assert (folder.artifacts / meta.artifact_id).samefile(wav)  # takes no room


def test_a_trial_without_recordings_has_none(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path)
    add_recordings(study.ask(), RunFolder(tmp_path / "nothing"), folder, None)
    assert not folder.artifacts.exists()


def test_where_links_fail_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr("os.link", no_links)
    folder = finished_study(tmp_path)
    sizes = {path.stat().st_size for path in folder.artifacts.iterdir()}
    samples = folder.trial(0).samples.glob("*/step_000090.wav")
    assert sizes == {path.stat().st_size for path in samples}


@contextmanager
def dashboard(folder: SweepFolder) -> Iterator[str]:
    """Run the command of docs/sweep.md on a free port, and yield its address."""
    page = (ROOT / "docs/sweep.md").read_text()
    found = re.search(r"^(optuna-dashboard) sweep/(\S+) --artifact-dir sweep/(\S+)$", page, re.M)
    assert found, "docs/sweep.md has no command of optuna-dashboard"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, journal, artifacts = found.groups()
    command = [str(Path(sys.executable).parent / program), journal, "--artifact-dir", artifacts]
    process = subprocess.Popen(
        [*command, "--port", str(port)], cwd=folder.path, stdout=-3, stderr=-3
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            ask(f"{address}/api/studies").close()
            return
        except urllib.error.URLError:
            assert time.monotonic() < give_up, "optuna-dashboard does not answer"
            time.sleep(0.1)


def ask(url: str) -> Any:
    return urllib.request.urlopen(url, timeout=20)


def test_dashboard_gives_the_recordings(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    with dashboard(folder) as address:
        with ask(f"{address}/api/studies/0?after=0") as answer:
            [trial] = json.load(answer)["trials"]
        assert {a["filename"] for a in trial["artifacts"]} == {"One, two.wav", "Three?.wav"}
        [artifact] = [a for a in trial["artifacts"] if a["filename"] == "Three?.wav"]
        assert artifact["mimetype"] == "audio/wav"
        with ask(f"{address}/artifacts/0/{trial['trial_id']}/{artifact['artifact_id']}") as answer:
            assert answer.headers["Content-Type"] == "audio/wav"
            wav = folder.trial(0).samples / "bb/step_000090.wav"
            assert answer.read() == wav.read_bytes()
