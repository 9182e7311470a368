"""A real Ray cluster on this machine, each node a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


class RayNodes:
    """Nodes started by `ray start`, as on machines of their own; the first is the head."""

    def __init__(self, environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        # Where Ray has left a token in the home folder, its nodes would ask each client for it.
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        self._environment = os.environ | environment | own
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def num_started(self) -> int:
        return len(self._nodes)

    def start(
        self, name: str, *argv: str, other_files: dict[Path, Path] | None = None, **environment: str
    ) -> None:
        """Start a node with one slot; it finds `other_files`, by path, in the place of files."""
        head = ["--head", "--port", str(self._port), "--include-dashboard=false"]
        where = ["--address", self.address] if self._nodes else head
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", *where),
            *("--node-ip-address", "127.0.0.1", "--node-name", name, "--num-cpus", "1"),
            *("--resources", '{"slot": 1}', "--object-store-memory", "80000000"),
            *("--disable-usage-stats", *argv),
        ]
        for path, other in (other_files or {}).items():
            # In a mount namespace of its own, as if it were another machine.
            mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
            inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
            command = [*inside, str(other), str(path), *command]
        self._nodes[name] = subprocess.Popen(
            command,
            env=self._environment | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def num_alive(self) -> int:
        """Return how many nodes the head knows of; 0 while it starts."""
        from ray._raylet import GcsClient

        try:
            nodes = GcsClient(address=self.address).get_all_node_info().values()
        except Exception:  # of several classes: it does not answer yet
            return 0
        return sum(node.state == 0 for node in nodes)

    def processes(self) -> list[int]:
        """Return the processes of all nodes."""
        return [pid for node in self._nodes.values() for pid in descendants(node.pid)]

    def kill(self, name: str) -> None:
        """Let a node vanish, with all of its processes."""
        node = self._nodes.pop(name)
        children = descendants(node.pid)
        for pid in (node.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        for name in reversed(list(self._nodes)):
            self.kill(name)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(facts[1])
    found, begun = [], [pid]
    while begun:
        begun = [child for child, parent in parents.items() if parent in begun]
        found += begun
    return found
