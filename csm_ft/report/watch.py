"""Serves the page of a sweep or a run on this machine alone, live, and takes votes.

Any page of the internet can send requests to 127.0.0.1 from the user's browser, also under a name
of its own that it lets point there. So a request must be addressed to this server by its own name
(Host), and one that changes something must come from a page of this server (Origin).
"""

import hashlib
import json
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from csm_ft.errors import ConfigError, MachineError, ReportError, UserError
from csm_ft.report.data import read_summary
from csm_ft.report.page import build_report, render_report
from csm_ft.report.run_page import render_run_page
from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.sweep.preference import write_preference
from csm_ft.sweep.votes import add_votes, parse_votes

ADDRESS = "127.0.0.1"
MOST_BODY_BYTES = 1_000_000  # of a POST: some thousand votes
POLL_SEC = 1.0
LARGEST_SHARE = 0.2  # of the time that making the page may take
SOCKET_SEC = 30.0  # a connection that is silent for so long is closed
_POLICY = "frame-ancestors 'none'"  # a header only; the page has the rest of its policy itself
_KINDS = {  # everything else is for saving
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".wav": "audio/wav",
    **dict.fromkeys((".yaml", ".jsonl", ".csv", ".txt", ".sh"), "text/plain; charset=utf-8"),
}


@dataclass(frozen=True)
class Version:
    """A page, and its name for conditional requests."""

    content: bytes
    etag: str


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class LivePage:
    """The page of a folder, made again when one of its files has changed."""

    def __init__(self, files: Callable[[], Iterator[Path]], render: Callable[[], bytes]) -> None:
        self._files, self._render = files, render
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] | None = None
        self._due_sec = 0.0
        self._version: Version | None = None

    def current(self) -> Version:
        """Return the page; an old one for a moment, where making it again takes long."""
        with self._lock:
            began_sec = time.monotonic()
            if self._version is None or began_sec >= self._due_sec:
                self._bring_up_to_date(began_sec)
            assert self._version is not None
            return self._version

    def expire(self) -> None:
        """Look at the files at the next request."""
        self._due_sec = 0.0

    def _bring_up_to_date(self, began_sec: float) -> None:
        stamp = tuple(_stamps(self._files()))
        if stamp != self._stamp:
            content = self._render()
            digest = hashlib.sha256(content).hexdigest()[:32]
            self._stamp, self._version = stamp, Version(content, f'"{digest}"')
        now_sec = time.monotonic()
        self._due_sec = now_sec + max(POLL_SEC, (now_sec - began_sec) / LARGEST_SHARE)


def watch(path: Path, *, is_run: bool, port: int) -> None:
    """Serve the page of a sweep or a run until Ctrl-C, then write report.html if there were votes.

    Raises ReportError where there is no sweep, and MachineError when the port is taken.
    """
    page = _run_page(path) if is_run else _sweep_page(path)
    page.current()
    with Server(path, page, takes_votes=not is_run, port=port) as server:
        print(f"{server.url} shows {path} while it changes; Ctrl-C ends", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    if server.num_votes:
        votes = SweepFolder(path).votes
        print(f"new votes in {votes}: {server.num_votes}; the page is {build_report(path)}")


def _sweep_page(path: Path) -> LivePage:
    folder = SweepFolder(path)

    def files() -> Iterator[Path]:
        yield from (folder.summary, folder.events, folder.votes, folder.evaluation.results)
        yield folder.baseline.metrics
        runs = sorted(folder.trials.iterdir()) if folder.trials.is_dir() else ()
        yield from (RunFolder(run).metrics for run in runs)

    return LivePage(files, lambda: render_report(folder, is_served=True))


def _run_page(path: Path) -> LivePage:
    folder = RunFolder(path)

    def files() -> Iterator[Path]:
        yield from (folder.config, folder.metrics, folder.judged)

    return LivePage(files, lambda: render_run_page(path, is_served=True))


def _stamps(files: Iterator[Path]) -> Iterator[tuple[str, int, int]]:
    for path in files:
        try:
            facts = path.stat()
        except OSError:
            continue  # not there yet, or not any more
        yield str(path), facts.st_mtime_ns, facts.st_size


class Server(ThreadingHTTPServer):
    """The server of one folder; `port` 0 chooses a free one. Raises MachineError if it is taken."""

    daemon_threads = True

    def __init__(self, folder: Path, page: LivePage, *, takes_votes: bool, port: int) -> None:
        self.folder, self.page, self.takes_votes = folder.resolve(), page, takes_votes
        self.num_votes, self._voting = 0, threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise MachineError(
                f"port {port}: {error.strerror}; choose another --port, or 0 for any free one"
            ) from None
        own_port = self.server_address[1]
        self.hosts = {f"{name}:{own_port}" for name in (ADDRESS, "localhost")}

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a bug; a browser that goes away between two requests is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def take_votes(self, body: bytes) -> int:
        """Add votes to the sweep's file and return how many were new; UserError as `add_votes`."""
        folder = SweepFolder(self.folder)
        with self._voting:
            summary = read_summary(folder)
            num_new = add_votes(folder, summary, parse_votes(body, "the votes sent", summary))
            write_preference(folder)
            self.num_votes += num_new
        self.page.expire()
        return num_new


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] - no other makes it
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "csm-ft", ""
    timeout = SOCKET_SEC

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, handle: Callable[[], None]) -> None:
        try:
            if self.headers.get("Host") not in self.server.hosts:
                raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "this is not the host you ask for")
            handle()
        except Refused as error:
            self.close_connection = True  # a body may be unread
            self._send(error.status, error.why.encode(), "text/plain; charset=utf-8")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser has gone

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in ("/", "/report.html"):
            self._send_page()
        else:
            self._send_file(self._find(path))

    def _send_page(self) -> None:
        try:
            version = self.server.page.current()
        except ReportError as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        headers = {"ETag": version.etag}
        if self.headers.get("If-None-Match") == version.etag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", "", headers)
        else:
            self._send(HTTPStatus.OK, version.content, "text/html; charset=utf-8", headers)

    def _find(self, path: str) -> Path:
        """Return a file of the folder; nothing hidden, and nothing that a link leads out to."""
        parts = [part for part in path.split("/") if part]
        missing = Refused(HTTPStatus.NOT_FOUND, "no such file in this folder")
        if not parts or any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            raise missing
        found = self.server.folder.joinpath(*parts).resolve()
        if not found.is_relative_to(self.server.folder) or not found.is_file():
            raise missing
        return found

    def _send_file(self, path: Path) -> None:
        """Send a file, or the part of it that a player asks for."""
        size = path.stat().st_size
        start, end = self._range(size)
        kind = _KINDS.get(path.suffix, "application/octet-stream")
        headers = {"Accept-Ranges": "bytes"}
        status = HTTPStatus.OK
        if (start, end) != (0, size):
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        with path.open("rb") as file:
            file.seek(start)
            self._head(status, kind, end - start, headers)
            while self.command != "HEAD" and start < end:
                block = file.read(min(65536, end - start))
                if not block:
                    self.close_connection = True  # it has become shorter since
                    return
                self.wfile.write(block)
                start += len(block)

    def _range(self, size: int) -> tuple[int, int]:
        """Return the part [start, end) that is asked for: all, unless it is one range of bytes."""
        unit, _, asked = self.headers.get("Range", "").partition("=")
        first, dash, last = asked.partition("-")
        if unit != "bytes" or not dash or not all(t.isdigit() or not t for t in (first, last)):
            return 0, size
        if first:
            start, end = int(first), min(size, int(last) + 1) if last else size
        elif last:
            start, end = max(0, size - int(last)), size
        else:
            return 0, size
        if start >= end:
            raise Refused(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"it has {size} bytes")
        return start, end

    def _post(self) -> None:
        if self.path != "/votes" or not self.server.takes_votes:
            raise Refused(HTTPStatus.NOT_FOUND, "only votes of a sweep are taken, at /votes")
        origins = {f"http://{host}" for host in self.server.hosts}
        if self.headers.get("Origin") not in origins:
            raise Refused(HTTPStatus.FORBIDDEN, "votes are taken from this server's page only")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "votes are application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "say how long the votes are")
        if int(length) > MOST_BODY_BYTES:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{MOST_BODY_BYTES} bytes of votes at once"
            )
        try:
            num_new = self.server.take_votes(self.rfile.read(int(length)))
        except MachineError as error:
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None
        except ConfigError as error:  # another process is writing them
            raise Refused(HTTPStatus.CONFLICT, str(error)) from None
        except UserError as error:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        self._send(HTTPStatus.OK, json.dumps({"new": num_new}).encode(), "application/json")

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._head(status, kind, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, size: int, headers: Mapping[str, str]) -> None:
        own = {
            "Content-Type": kind,
            "Content-Length": str(size),
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            **headers,
        }
        if status == HTTPStatus.NOT_MODIFIED:
            own = {name: own[name] for name in own if not name.startswith("Content-")}
        self.send_response(status)
        for name, value in own.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: requests come every second."""
