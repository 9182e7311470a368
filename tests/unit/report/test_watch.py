"""The server of --watch: what it gives, what it refuses, and how it ends."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from csm_ft.atomic import exclusive
from csm_ft.report import watch
from csm_ft.report.__main__ import main
from csm_ft.report.data import read_summary
from csm_ft.report.watch import LivePage, Server
from csm_ft.runs.folder import SweepFolder
from tests.conftest import ROOT
from tests.helpers.sweep_folder import make_sweep, write_summary
from tests.helpers.voting import ballot, make_vote

Answer = tuple[int, dict[str, str], bytes]


class Client:
    """A browser's requests, with any header."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host = server.url.removeprefix("http://").rstrip("/")

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def vote(self, body: bytes, **headers: str) -> Answer:
        own = {"Content_Type": "application/json", "Origin": f"http://{self.host}"}
        return self.ask("POST", "/votes", body, **{**own, **headers})


@contextmanager
def serving(server: Server) -> Iterator[Client]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Client(server)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    make_sweep(tmp_path, num_trials=2, sentences={"aa": ("one two", "")})
    return tmp_path


@pytest.fixture
def client(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(watch, "POLL_SEC", 0.0)
    monkeypatch.setattr(watch, "LARGEST_SHARE", 1e9)
    with serving(Server(sweep, watch._sweep_page(sweep), takes_votes=True, port=0)) as made:
        yield made


def body_of(sweep: Path, votes: list[dict[str, Any]]) -> bytes:
    return json.dumps(ballot(read_summary(SweepFolder(sweep)), votes)).encode()


def test_page_is_live_and_conditional(client: Client, sweep: Path) -> None:
    status, headers, page = client.ask("GET", "/")
    assert status == 200
    assert b"connect-src 'self'" in page
    assert b"data:audio" not in page
    assert client.ask("GET", "/", If_None_Match=headers["ETag"])[::2] == (304, b"")
    status, head, nothing = client.ask("HEAD", "/report.html")
    assert (status, head["ETag"], nothing) == (200, headers["ETag"], b"")
    assert int(head["Content-Length"]) == len(page)
    summary = json.loads((sweep / "summary.json").read_text())
    write_summary(sweep, {**summary, "study": "another name"})
    status, changed, page = client.ask("GET", "/", If_None_Match=headers["ETag"])
    assert status == 200
    assert changed["ETag"] != headers["ETag"]
    assert b"another name" in page


def test_every_answer_is_guarded(client: Client) -> None:
    for path in ("/", "/trials.csv", "/nothing"):
        _, headers, _ = client.ask("GET", path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-cache"


def test_server_is_on_loopback_only(client: Client) -> None:
    assert client.server.server_address[0] == "127.0.0.1"


def test_recordings_can_be_seeked(client: Client, sweep: Path) -> None:
    page = client.ask("GET", "/")[2].decode()
    found = re.search(r'src="(trials/[^"]*\.wav)"', page)
    assert found
    whole = (sweep / found[1]).read_bytes()
    status, headers, body = client.ask("GET", f"/{found[1]}")
    assert (status, headers["Content-Type"], body) == (200, "audio/wav", whole)
    for asked, part in (("10-19", whole[10:20]), ("10-", whole[10:]), ("-7", whole[-7:])):
        status, headers, body = client.ask("GET", f"/{found[1]}", Range=f"bytes={asked}")
        assert (status, body) == (206, part)
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    assert client.ask("GET", f"/{found[1]}", Range="bytes=99999999-")[0] == 416
    assert client.ask("GET", f"/{found[1]}", Range="bytes=5-2")[0] == 416
    assert client.ask("GET", f"/{found[1]}", Range="lines=1-2")[2] == whole


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/trials/..%2f..%2fsecret.txt",
        "/trials/%2e%2e/%2e%2e/secret.txt",
        "//etc/passwd",
        "/.votes.lock",
        "/linked.txt",
        "/trials",
        "/a%00b",
        "/..%5csecret.txt",
    ],
)
def test_nothing_outside_the_folder_is_given(client: Client, sweep: Path, path: str) -> None:
    secret = sweep.parent / "secret.txt"
    secret.write_text("secret")
    (sweep / ".votes.lock").write_text("secret")
    if not (sweep / "linked.txt").exists():
        (sweep / "linked.txt").symlink_to(secret)
    status, _, body = client.ask("GET", path)
    assert status == 404
    assert b"secret" not in body.replace(b"no such file", b"")


def test_other_names_of_this_machine_are_refused(client: Client) -> None:
    port = client.host.split(":")[1]
    assert client.ask("GET", "/", Host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{int(port) + 1}"):
        status, _, body = client.ask("GET", "/", Host=host)
        assert status == 421
        assert b"html" not in body
        assert client.vote(b"{}", Host=host)[0] == 421


def test_votes_are_added_and_shown(client: Client, sweep: Path) -> None:
    etag = client.ask("GET", "/")[1]["ETag"]
    body = body_of(sweep, [make_vote(1, 0, 1), make_vote(2, 0, "base")])
    assert json.loads(client.vote(body)[2]) == {"new": 2}
    assert json.loads(client.vote(body)[2]) == {"new": 0}
    status, _, page = client.ask("GET", "/", If_None_Match=etag)
    assert status == 200
    assert b"2 blind votes by 2 listeners" in page
    assert json.loads((sweep / "summary.json").read_text())["preference"]["num_votes"] == 2


def test_votes_from_many_at_once_are_all_kept(client: Client, sweep: Path) -> None:
    statuses: dict[int, int] = {}

    def send(number: int) -> None:
        body = body_of(sweep, [make_vote(number, 0, 1)])
        statuses[number] = client.vote(body)[0]

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses.values()) == {200}
    stored = json.loads((sweep / "votes.json").read_text())["votes"]
    assert {int(vote["id"], 16) for vote in stored} == set(range(12))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": "2000000"}, 413),
        ({"Content_Length": "-1"}, 411),
    ],
)
def test_votes_of_others_are_refused(
    client: Client, sweep: Path, headers: dict[str, str], status: int
) -> None:
    assert client.vote(body_of(sweep, [make_vote(1, 0, 1)]), **headers)[0] == status
    assert not (sweep / "votes.json").exists()


def test_votes_without_an_origin_are_refused(client: Client, sweep: Path) -> None:
    body = body_of(sweep, [make_vote(1, 0, 1)])
    assert client.ask("POST", "/votes", body, Content_Type="application/json")[0] == 403
    assert client.ask("PUT", "/votes", body)[0] == 501
    assert client.vote(body)[0] == 200
    assert client.ask("POST", "/summary.json", body)[0] == 404


def test_bad_votes_are_answered_with_the_reason(client: Client, sweep: Path) -> None:
    status, _, body = client.vote(body_of(sweep, [make_vote(1, 0, 77)]))
    assert status == 422
    assert b"vote 1: trial 77 is not in the study" in body
    with exclusive(SweepFolder(sweep).votes_lock, "held"):
        assert client.vote(body_of(sweep, [make_vote(1, 0, 1)]))[0] == 409
    assert not (sweep / "votes.json").exists()


def test_a_run_is_served_without_votes(sweep: Path) -> None:
    run = sweep / "trials/0000"
    (run / "config.yaml").write_text("family: csm\n")
    with serving(Server(run, watch._run_page(run), takes_votes=False, port=0)) as client:
        assert b"csm-ft run" in client.ask("GET", "/")[2]
        assert client.vote(b"{}")[0] == 404


def test_page_is_made_again_only_after_a_change(tmp_path: Path) -> None:
    file, made = tmp_path / "a", list[int]()
    file.write_text("1")

    def render() -> bytes:
        made.append(len(made))
        return str(len(made)).encode()

    page = LivePage(lambda: iter([file, tmp_path / "missing"]), render)
    first = page.current()
    page.expire()
    assert page.current() is first
    file.write_text("22")
    assert page.current() is first  # for a moment
    page.expire()
    assert page.current().etag != first.etag
    assert made == [0, 1]


def test_folder_without_a_sweep_and_taken_port(
    tmp_path: Path, sweep: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nothing"), "--watch"]) == 2
    assert "no such file" in capsys.readouterr().err
    port = client.host.split(":")[1]
    assert main([str(sweep), "--watch", "--port", port]) == 2
    assert f"port {port}: Address already in use; choose another --port" in capsys.readouterr().err


def test_ctrl_c_ends_cleanly(sweep: Path) -> None:
    command = [sys.executable, "-m", "csm_ft.report", str(sweep), "--watch", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1)
    assert process.stdout is not None
    line = process.stdout.readline()
    host = line.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=20)
    headers = {"Content-Type": "application/json", "Origin": f"http://{host}"}
    connection.request("POST", "/votes", body_of(sweep, [make_vote(1, 0, 1)]), headers)
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=200)
    assert (process.returncode, error) == (0, "")
    assert "votes.json: 1; the page is" in out
    assert "1 blind vote by 1 listener prefers trial 0" in (sweep / "report.html").read_text()
