"""torch.compile for the blocks of a model: fewer, larger kernels, the same loss within rounding."""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.split import Store
from csm_ft.device import has_compiler
from csm_ft.errors import MachineError
from csm_ft.families.base import Family
from csm_ft.families.model import SpeechModel
from csm_ft.training.duration import ASSUMED_SHARE, card_tflops
from csm_ft.training.plan import RunPlan

_REPAID_AFTER_SEC = 600.0  # of training; compiling takes a minute or more, once per machine
_UNKNOWN_CARD_TFLOPS = 100.0
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
# One for each transformer, with and without gradients, in each dtype: torch gives up after 8.
_MOST_VARIANTS = 64


def compile_blocks(
    model: SpeechModel,
    *,
    may_fail: bool = False,
    backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Compile each block at its first pass, for any number of sequences and positions.

    What is compiled is kept on disk, for the next run. A block that cannot be compiled runs as it
    is written, with a warning, if it `may_fail`, else its pass raises. Raises MachineError without
    a compiler.
    """
    if not has_compiler():
        raise MachineError(
            "compile on: torch.compile needs a C++ compiler, and this machine has none; install"
            " one (apt-get install g++), or use --compile off"
        )
    _keep_on_disk()
    from torch._inductor import config as inductor_config  # here, as below

    inductor: Any = inductor_config
    inductor.deterministic = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch._dynamo.config
    settings.suppress_errors = may_fail
    settings.recompile_limit = max(settings.recompile_limit, _MOST_VARIANTS)
    settings.specialize_float = True  # else each graph is traced twice, as its floats may change
    for module in model.modules():
        if isinstance(module, model.block_classes):
            compiled = torch.compile(module.forward, dynamic=True, backend=backend)
            module.forward = _without_views(compiled)


def _without_views(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Let no input be a view, as the first layer's is, and each one's under FSDP.

    A graph is for one form of the tensor behind a view, so there would be several.
    """

    def forward(*inputs: Any, **options: Any) -> Any:
        inputs, options = tree_map_only(Tensor, _plain, (inputs, options))
        return compiled(*inputs, **options)

    return forward


def _plain(tensor: Tensor) -> Tensor:
    plain: Any = _Plain.apply(tensor) if tensor._is_view() else tensor
    return plain


class _Plain(torch.autograd.Function):
    """The same memory, which torch does not know as a view; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def choose_compile(config: TrainConfig, family: Family, store: Store, plan: RunPlan) -> bool:
    """Tell whether to compile the layers in this run; where it depends on its length, say why."""
    if config.compile != "auto" or not config.device.startswith("cuda"):
        return config.compile == "on"
    if not config.can_compile or not has_compiler():
        return False
    sec = training_sec(config, family.empty_model(config, store), plan.num_positions())
    is_repaid = sec >= _REPAID_AFTER_SEC
    minutes = f"about {max(1, round(sec / 60))} min of training, by a rough estimate,"
    console.print(
        f"layers are compiled: {minutes} repay it (--compile off)"
        if is_repaid
        else f"layers are not compiled: {minutes} would not repay it (--compile on)"
    )
    return is_repaid


def training_sec(config: TrainConfig, model: SpeechModel, num_positions: int) -> float:
    """Estimate what the steps of a run take on its GPU: 6 FLOP for each weight and position."""
    blocks = [m for m in model.modules() if isinstance(m, model.block_classes)]
    num_weights = sum(p.numel() for block in blocks for p in block.parameters())
    tflops = card_tflops(config.device, is_16_bit=config.dtype != "fp32") or _UNKNOWN_CARD_TFLOPS
    return 6 * num_weights * num_positions / (1e12 * tflops * ASSUMED_SHARE)


def _keep_on_disk() -> None:
    """Let torch keep what it compiles in the user's cache, unless the user has chosen a folder.

    Its own choice is in /tmp, which may be empty after a restart.
    """
    # Here: it takes seconds to import, and few runs compile anything.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(_CACHE, default_cache_dir()) == default_cache_dir():
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ[_CACHE] = str(caches / "csm_ft" / "torchinductor")


def uncompiled() -> AbstractContextManager[Any]:
    """Return a context in which compiled functions run as they are written.

    It would take longer to compile them for each shape than to run them.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing is compiled, and it takes a second to import
    return torch.compiler.set_stance("force_eager")
