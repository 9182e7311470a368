"""Workers on the nodes of a Ray cluster, behind the same link as those of this machine.

The only module that imports Ray. Ray places an actor (node.py) for each worker and carries bytes to
and from it; the study, the retries and the messages are the same as without it. Ray pickles what it
sends between its own processes: its ports must be closed to others (docs/cluster.md).
"""

import contextlib
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from csm_ft.atomic import write_whole
from csm_ft.config.base import extra
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.errors import ConfigError, MachineError, first_line
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep import copying, node
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.link import Link
from csm_ft.sweep.messages import FROM_WORKER, TO_WORKER, Alive, FromWorker, Progress, RunTrial
from csm_ft.sweep.team import environment_of_ranks
from csm_ft.sweep.worker_process import Slot, Worker

ROOT = Path(__file__).resolve().parents[2]
CODE = (*node.CODE, "configs", "demo")  # what a node gets that lacks the program
LOOK_EVERY_SEC = 1.0  # for nodes that join or leave
KILL_SEC = 10.0  # for a node to end a worker
LOSS_SEC = 5.0  # for Ray to notice that a dead actor's node is dead
COPY_EVERY_SEC = 5.0
UNKNOWN_EXIT = -9  # as of SIGKILL


class Cluster:
    """The nodes of a running Ray cluster, as the machine of a sweep."""

    def __init__(
        self, sweep: SweepConfig, base: TrainConfig, folder: SweepFolder, trainer: str
    ) -> None:
        """Connect; ConfigError when there is no cluster, or nothing in it that a trial fits."""
        _connect(sweep.cluster)
        self._folder, self._trainer, self._sweep = folder, trainer, sweep
        nodes = _alive_nodes()
        has_gpus = any(one["Resources"].get("GPU") for one in nodes)
        if base.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device {base.device}: Ray gives each worker its GPU; drop --device")
        self.device = "cuda" if has_gpus and base.device != "cpu" else "cpu"
        if base.device == "cuda" and not has_gpus:
            raise ConfigError("device cuda: no node of the cluster has a GPU; use --device cpu")
        self._amounts = _amounts(sweep, self.device, base.threads)
        numbers = [(one["Resources"], _num_slots(one, self._amounts)) for one in nodes]
        shares = [int(has.get("CPU", 1)) // number for has, number in numbers if number]
        if not shares:
            raise ConfigError(
                f"no node of the cluster has {_in_words(self._amounts)}, which a trial takes;"
                " the nodes have "
                + "; ".join(_in_words(_countable(one["Resources"])) for one in nodes)
            )
        cores = max(1, min(shares) // sweep.gpus_per_trial)
        self.threads = base.threads or (cores if self.device == "cuda" else 1)
        self._inputs = _inputs(base)
        self._need: node.Need | None = None
        self._looked_sec, self._slots = 0.0, list[Slot]()
        counts = ((len(self.slots), "worker"), (len(nodes), "node"))
        words = [f"{number} {what}{'s' * (number != 1)}" for number, what in counts]
        console.print(f"cluster: {' on '.join(words)}", markup=False)

    @property
    def slots(self) -> list[Slot]:
        """The slots of the nodes that are alive; looked up about once a second."""
        if time.monotonic() - self._looked_sec < LOOK_EVERY_SEC:
            return self._slots
        self._looked_sec = time.monotonic()
        threads = str(self.threads)
        environment = {
            "OMP_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            **environment_of_ranks(self._sweep.gpus_per_trial),
        }
        slots = [
            Slot(f"{_name_of(one)}.{place}", environment, node=one["NodeID"])
            for one in _alive_nodes()
            for place in range(_num_slots(one, self._amounts))
        ]
        before, now = ({slot.name for slot in some} for some in (self._slots, slots))
        if before and now != before:
            for names, what in ((before - now, "left"), (now - before, "joined")):
                if names:
                    text = f"cluster: {', '.join(sorted(names))} {what}"
                    console.print(text, style="yellow", markup=False)
        self._slots = slots
        return slots

    def start(self, slot: Slot, trainer: str, log: Path) -> Worker:
        """Have a worker started on the node of a slot."""
        amounts = dict(self._amounts)
        actor = _NodeActor.options(
            num_cpus=amounts.pop("CPU", 0),
            num_gpus=amounts.pop("GPU", 0),
            resources=amounts,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        ).remote(self._needed(), slot.name)
        return ClusterWorker(slot, trainer, log, actor, self._needed())

    def close(self) -> None:
        """Leave the cluster; what still runs there for this process ends."""
        ray.shutdown()

    def _needed(self) -> node.Need:
        """Return what nodes must have; the sweep's folder is marked, so that they can see it."""
        if self._need is None:
            mark = uuid.uuid4().hex
            write_whole(self._folder.mark, mark)
            self._need = node.Need(
                root=str(ROOT),
                code_hash=node.hash_of_code(ROOT),
                working_folder=str(Path.cwd()),
                mark=(str(self._folder.mark.resolve()), mark),
                files={name: node.hash_of_file(Path(name)) for name in self._inputs},
                is_copying=self._sweep.cluster_copy,
            )
        return self._need


class ClusterWorker(Worker):
    """A worker on a node; what it sends comes out of a link of this machine."""

    def __init__(self, slot: Slot, trainer: str, log: Path, actor: Any, need: node.Need) -> None:
        super().__init__(slot, log)
        self._trainer, self._actor, self._need = trainer, actor, need
        self._is_stopped, self._exit_code = False, UNKNOWN_EXIT
        self._run_folder: Path | None = None  # of its job, where it is copied
        self._copied_sec = 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self.link, theirs = Link[FromWorker].open(FROM_WORKER)
        self._inside = Link(theirs, TO_WORKER)
        self._connection = theirs
        threading.Thread(target=self._relay, daemon=True, name=f"from {slot.name}").start()

    def signal(self, number: int) -> None:
        """Send a signal to the process on its node; does not wait."""
        self._actor.signal.remote(int(number))

    def is_stopped(self) -> bool:
        """Tell whether the process was stopped when its node was asked last."""
        return self._is_stopped

    def identity(self) -> Mapping[str, object]:
        """Return its node."""
        return {"node": self.slot.node}

    def kill(self) -> int:
        """End the process; return its exit code, as of SIGKILL where the node does not tell."""
        self.link.close()
        with contextlib.suppress(RayError):
            code: Any = ray.get(self._actor.kill.remote(), timeout=KILL_SEC)
            self._exit_code = code if self._exit_code == UNKNOWN_EXIT else self._exit_code
        ray.kill(self._actor, no_restart=True)
        return self._exit_code

    # In threads: whatever ends them ends the link, which the broker notices

    def _relay(self) -> None:
        try:
            self.problem = self._prepare()
            if not self.problem:
                self._call("start", self.slot.environment, self._trainer)
                threading.Thread(
                    target=self._tell, daemon=True, name=f"to {self.slot.name}"
                ).start()
                self._hear()
        except RayActorError as error:
            self.is_lost = self._has_lost_its_node(error)
        except MachineError as error:  # a full disk here, where runs are copied to
            self.problem = str(error)
        except (RayError, OSError, EOFError):  # closed by the broker, or the cluster is gone
            pass
        finally:
            self._end_link()

    def _end_link(self) -> None:
        """Let both ends notice; to close it would wait for the thread that reads it."""
        duplicate = os.dup(self._connection.fileno())
        with socket.socket(fileno=duplicate) as ours, contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)

    def _prepare(self) -> str:
        """Bring to the node what it lacks; return why it cannot be used, or ""."""
        while True:
            found: str = self._call("prepare")
            kind, _, path = found.partition(" ")
            if found == "code":
                self._call("put_code", node.pack_code(ROOT, [*CODE, self._trainer.split(".")[0]]))
            elif kind == "missing":
                self._put_file(path)
            else:
                return found and f"node {self.slot.name}: {found}"

    def _put_file(self, path: str) -> None:
        num_bytes, offset = Path(path).stat().st_size, 0
        with Path(path).open("rb") as file:
            while offset < num_bytes or not offset:
                piece = file.read(copying.PIECE_BYTES)
                is_last = offset + len(piece) >= num_bytes
                ray.get(self._actor.put_piece.remote(path, offset, piece, is_last=is_last))
                offset += max(1, len(piece))

    def _hear(self) -> None:
        while True:
            heard: node.Heard = self._call("hear")
            self._is_stopped = heard.is_stopped
            if heard.log:
                with self.log.open("ab") as file:
                    file.write(heard.log)
            for frame in heard.frames:
                self._copy_back(frame)
                self._connection.send_bytes(frame)
            if heard.exit_code is not None:
                self._exit_code = heard.exit_code
                return

    def _tell(self) -> None:
        with contextlib.suppress(Exception):  # the other thread tells how it ended
            while True:
                message = self._inside.receive()
                if isinstance(message, RunTrial):
                    self._copy_there(Path(message.config["output_dir"]))
                self._call("tell", message.model_dump_json().encode())

    def _copy_there(self, run: Path) -> None:
        if self._need.is_copying:
            self._run_folder = run
            copying.copy(copying.Tree(run), _RemoteTree(self._call, run.name))

    def _copy_back(self, frame: bytes) -> None:
        """Copy the run's folder here before a message that says what is in it, and now and then."""
        if self._run_folder is None:
            return
        message = FROM_WORKER.validate_json(frame)
        is_minor = isinstance(message, Progress | Alive)
        if is_minor and time.monotonic() - self._copied_sec < COPY_EVERY_SEC:
            return
        copying.copy(_RemoteTree(self._call, self._run_folder.name), copying.Tree(self._run_folder))
        self._copied_sec = time.monotonic()

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayTaskError as error:
            if isinstance(error.cause, FileNotFoundError):
                raise FileNotFoundError from error
            raise

    def _has_lost_its_node(self, error: RayActorError) -> bool:
        """Tell whether it is the node that is gone, and be sure that the worker is."""
        is_cut_off = isinstance(error, ActorUnavailableError)
        # Cut off, it may live; without questions from here it ends itself.
        wait_sec = node.LEASE_SEC if is_cut_off else LOSS_SEC
        deadline_sec = time.monotonic() + wait_sec
        while time.monotonic() < deadline_sec:
            if self.slot.node not in {one["NodeID"] for one in _alive_nodes()}:
                return True
            time.sleep(0.1)
        return is_cut_off


class _RemoteTree:
    """The folder of a run on a node (copying.CopyEnd)."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self._call, self._name = call, name

    def files(self) -> copying.Files:
        return self._call("files", self._name)

    def read(self, name: str, offset: int) -> bytes:
        return self._call("read", self._name, name, offset)

    def write(self, name: str, offset: int, piece: bytes, time_ns: int) -> None:
        self._call("write", self._name, name, offset, piece, time_ns)

    def commit(self, names: Sequence[str]) -> None:
        self._call("commit", self._name, list(names))


# By value: a node that lacks the program gets it through this actor.
cloudpickle.register_pickle_by_value(node)
_remote: Any = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=8)  # type: ignore
_NodeActor: Any = _remote(node.Node)


def _connect(address: str) -> None:
    if address.startswith("ray://"):
        raise ConfigError(
            f"cluster {address}: give the command on a node of the cluster, with --cluster auto"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cluster {address}: no Ray cluster answers ({first_line(error)}). Start one by `ray"
            " start --head`, and join other machines by `ray start --address`; see docs/cluster.md"
        ) from error


def _alive_nodes() -> list[dict[str, Any]]:
    nodes = [one for one in ray.nodes() if one["Alive"]]
    return sorted(nodes, key=_name_of)


def _name_of(one: Mapping[str, Any]) -> str:
    """Return the name that `ray start --node-name` gave, or one that is unique; for file names."""
    name = one["NodeName"]
    if name == one["NodeManagerAddress"]:
        name = f"{one['NodeManagerHostname']}-{one['NodeID'][:6]}"
    return re.sub(r"[^\w.-]", "_", name)


def _amounts(sweep: SweepConfig, device: str, threads: int) -> dict[str, float]:
    """Return what a worker takes of its node."""
    asked = sweep.cluster_amounts
    share = sweep.gpus_per_trial / sweep.workers_per_gpu
    if device == "cuda":
        return {"GPU": share, **asked}
    return asked or {"CPU": (threads or 1) * share}


def _num_slots(one: Mapping[str, Any], amounts: Mapping[str, float]) -> int:
    has = one["Resources"]
    return min(int(has.get(name, 0) / amount + 1e-9) for name, amount in amounts.items())


def _countable(resources: Mapping[str, float]) -> dict[str, float]:
    hidden = ("node:", "memory", "object_store_memory")
    return {name: amount for name, amount in resources.items() if not name.startswith(hidden)}


def _in_words(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(amounts.items())) or "nothing"


def _inputs(base: TrainConfig) -> list[str]:
    """Return the files that runs read, as options name them."""
    fields = type(base).model_fields
    values = [getattr(base, name) for name, field in fields.items() if extra(field)["path"]]
    return [one for one in values if isinstance(one, str) and Path(one).is_file()]
