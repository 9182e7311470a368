"""A study mirrored to a real PostgreSQL, which goes away and comes back."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from csm_ft.sweep.mirror import COPY_EVERY_SEC
from tests.integration.test_sweep_chaos import Sweep, wait_for

pytestmark = pytest.mark.slow
PASSWORD = "swordfish-17"


class Postgres:
    """A server of its own, on loopback, with a password."""

    def __init__(self) -> None:
        self._bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._user:
            for path in (self._folder, secret):
                os.chown(path, pwd.getpwnam(self._user).pw_uid, -1)
        self._data = self._folder / "data"
        self._run(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            "sweeps",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
        )
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://sweeps:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run(
            "pg_ctl",
            "-D",
            str(self._data),
            "-w",
            "-l",
            str(self._folder / "log"),
            "-o",
            options,
            "start",
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *argv: str) -> None:
        command = [str(self._bin / program), *argv]
        subprocess.run(command, user=self._user, cwd="/", check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def server() -> Iterator[Postgres]:
    if not Path("/usr/lib/postgresql").is_dir():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = Postgres()
    yield server
    server.close()


def check_same(sweep: Sweep, url: str) -> None:
    """The database has every trial as the journal has it."""
    mirror = optuna.load_study(study_name="csm-sweep", storage=url.replace("://", "+psycopg://"))
    assert len(mirror.trials) == len(sweep.trials())
    for there, here in zip(mirror.trials, sweep.trials(), strict=True):
        for name in (
            "number",
            "state",
            "values",
            "params",
            "distributions",
            "intermediate_values",
            "user_attrs",
        ):
            assert getattr(there, name) == getattr(here, name)
        assert there.constraints == here.constraints
    mirror._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_outage_is_caught_up_with(tmp_path: Path, server: Postgres) -> None:
    faults = {"slow_sec": 0.1, "diverge": [2]}
    sweep = Sweep(tmp_path, "--n_gpus", "2", "--storage", server.url, faults=faults)
    with sweep.start("--n_trials", "8") as process:
        wait_for(lambda: len(sweep.events("ended")) >= 1)
        server.stop()
        num_ended = len(sweep.events("ended"))
        wait_for(lambda: len(sweep.events("ended")) >= num_ended + 2)
        time.sleep(2 * COPY_EVERY_SEC + 1)  # at least one copy is tried meanwhile
        server.start()
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    sweep.check_whole(8)
    text = " ".join(output.split())
    assert text.count("storage: the database does not answer") == 1
    sweep.run_apart("--n_trials", "8")  # catches up with what a slow machine had no time for
    check_same(sweep, server.url)
    server.stop()
    sweep.environment["FAKE_TRAINER"] = "{}"
    output = " ".join(sweep.run_apart("--n_trials", "10").split())
    assert "storage: the database is behind the study; the same command catches up" in output
    server.start()
    sweep.run_apart("--n_trials", "10")
    check_same(sweep, server.url)
    written = [path for path in sweep.out.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert PASSWORD not in text + output
    assert "sweeps:***@127.0.0.1" in (sweep.out / "repro.sh").read_text()
    shutil.rmtree(sweep.out)
    assert "has a study 'csm-sweep' of another sweep" in sweep.run_apart(code=2)
