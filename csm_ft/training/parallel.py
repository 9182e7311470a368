"""Several processes for one model: DDP and FSDP2, started by torchrun.

Every rank does the same number of passes through the model, each with micro-batches of its own. The
loss is divided by the counts of all ranks, and gradients are summed, so that they are those of one
process within rounding. The first rank alone reads and writes the run's folder.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.device import choose_device
from csm_ft.errors import MachineError, RankLostError, first_line
from csm_ft.families.model import SpeechModel
from csm_ft.ranks import Build, Ranks

T = TypeVar("T")
C = TypeVar("C", bound=TrainConfig)
_TIMEOUT = timedelta(hours=2)  # others wait while the first rank downloads, samples or judges
_LOST = ("gloo", "NCCL", "Connection", "TCPStore")  # in errors of a rank whose peer is gone


class TorchRanks(Ranks):
    """One of several processes."""

    def __init__(self, parallel: str, device: str) -> None:
        """Take the mode, and the device of this rank: cpu or cuda:N."""
        self.parallel, self.device = parallel, device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.mesh: DeviceMesh = init_device_mesh(device.split(":")[0], (self.size,))
        self._replica: DistributedDataParallel | None = None

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over all ranks, on the CPU, without waiting for a GPU."""
        return self.sum_on_device(torch.from_numpy(values.copy())).numpy()

    def sum_on_device(self, values: Tensor) -> Tensor:
        """Return the sums over all ranks."""
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def tell(self, make: Callable[[], T]) -> T:
        """Return what the writer makes; it travels as JSON."""
        content = json.dumps(make()).encode() if self.is_writer else b""
        length = int(self.sum(np.array([float(len(content))]))[0])
        text = torch.zeros(length, dtype=torch.uint8)
        if self.is_writer:
            text = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(text, 0)
        return json.loads(text.numpy().tobytes())

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the tensor whole, on the writer's CPU."""
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor()
        return full.cpu() if self.is_writer else full.to("meta")

    def spread(self, whole: Tensor | None, like: Tensor) -> Tensor:
        """Return this rank's part of the writer's tensor."""
        tensor = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        if whole is not None:
            tensor.copy_(whole.reshape(like.shape))
        if isinstance(like, DTensor):
            return distribute_tensor(tensor, like.device_mesh, like.placements)
        dist.broadcast(tensor, 0)
        return tensor

    def total_norm(self, norm: Tensor) -> Tensor:
        """Return the norm over the shards of all ranks."""
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def build(self, build: Build[T]) -> T:
        """Return the model, sharded while it was empty, with the weights of the writer's."""
        whole: Any = build(is_empty=False) if self.is_writer else None
        model: Any = build(is_empty=True)
        for name, parameter in list(model.named_parameters()):  # peft makes adapters on the CPU
            owner, _, attribute = name.rpartition(".")
            empty = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            setattr(model.get_submodule(owner), attribute, empty)
        if self.parallel == "fsdp":
            _shard(model, self.mesh)
        weights = whole.state_dict() if whole is not None else {}
        placed = {
            name: self.spread(weights.get(name), like) for name, like in model.state_dict().items()
        }
        model.load_state_dict(placed, assign=True)
        model.base_fingerprint = self.tell(lambda: whole.base_fingerprint if whole else "")
        model.to(self.device)
        if self.parallel == "ddp":
            self._replica = DistributedDataParallel(
                model, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        return model

    def forward(self, model: nn.Module, batch: Any, *, is_last: bool) -> Any:
        """Return model(batch); its gradients become the means over all ranks.

        FSDP exchanges them after each pass, and keeps a shard; DDP after the last pass.
        """
        if self._replica is None:
            return model(batch)
        if is_last:
            return self._replica(batch)
        with self._replica.no_sync():
            return self._replica(batch)

    @contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        """Let every rank hold all weights."""
        sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.set_reshard_after_forward(module is not model, recurse=False)
                module.reshard()


def _shard(model: SpeechModel, mesh: DeviceMesh) -> None:
    """Shard each block, and what is outside of them as one, over all ranks."""
    for module in model.modules():
        if isinstance(module, model.block_classes):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


@contextmanager
def join_ranks(config: C) -> Iterator[tuple[Ranks, C]]:
    """Join the processes of this run; yield them, and this rank's options.

    All ranks but the first work silently, in a folder that is thrown away. Raises MachineError when
    another rank is gone.
    """
    device = _device_of_rank(config.device)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        with tempfile.TemporaryDirectory(prefix="csm-ft-rank-") as scratch:
            is_auto = config.parallel == "auto"
            config = config.replace(parallel="ddp" if is_auto else config.parallel, device=device)
            ranks = TorchRanks(config.parallel, device)
            if ranks.is_writer:
                _announce(ranks, is_auto=is_auto)
            else:
                console.quiet = True
                config = config.replace(output_dir=f"{scratch}/run", wandb="off", extend="off")
            with _named_loss_of_ranks(ranks):
                yield ranks, config
    finally:
        dist.destroy_process_group()


def _device_of_rank(wanted: str) -> str:
    """Return the GPU of this rank, one for each on a machine; MachineError if it has too few."""
    device = choose_device(wanted)
    if device == "cpu":
        return device
    number, available = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= available:
        raise MachineError(
            f"rank {os.environ['RANK']} has no GPU of its own: this machine has {available};"
            f" use torchrun --nproc-per-node {available}"
        )
    return f"cuda:{number}"


def _announce(ranks: TorchRanks, *, is_auto: bool) -> None:
    mode = {"ddp": "DDP, all weights on each", "fsdp": "FSDP, weights sharded over them"}
    hint = " (chosen by default; --parallel fsdp needs less memory)" if is_auto else ""
    console.print(f"{ranks.size} ranks: {mode[ranks.parallel]}{hint}")


@contextmanager
def _named_loss_of_ranks(ranks: Ranks) -> Iterator[None]:
    """Say what the failure of a collective means: that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _LOST):
            raise
        raise RankLostError(
            f"rank {ranks.rank}: another rank is gone ({first_line(error)[:120]}); see its error,"
            " or whether it was killed. The same command resumes from the last checkpoint"
        ) from error
