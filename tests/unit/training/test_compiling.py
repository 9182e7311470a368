"""Compiled layers: the same loss and gradient, for any shape; on where it is repaid."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.distributed.tensor import DTensor

from csm_ft.config.base import build
from csm_ft.data.split import Store
from csm_ft.device import has_compiler
from csm_ft.errors import ConfigError, MachineError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.model import Batch, SpeechModel
from csm_ft.training import compiling
from csm_ft.training.compiling import choose_compile, compile_blocks, uncompiled
from csm_ft.training.parallel import TorchRanks
from csm_ft.training.plan import RunPlan
from csm_ft.training.recompute import checkpoint_activations
from csm_ft.training.step import after_each_forward
from tests.helpers.splits import examples_of, make_model, make_split
from tests.helpers.tables import INFO
from tests.unit.training.test_recompute import CASES

# Traced as for the compiler, and run by torch's own kernels: seconds instead of minutes.
TRACED = "eager"
# Torch hides it, but by a filter that comes after pytest's.
pytestmark = pytest.mark.filterwarnings(r"ignore:The \.grad attribute:UserWarning")

SLOW = [name for name in CASES if name != "csm"]


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Each test compiles by itself."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def backward(model: SpeechModel, batch: Batch) -> dict[str, Tensor]:
    """Return losses and gradients."""
    model.zero_grad()
    torch.manual_seed(5)  # of dropout
    loss = model.train()(batch)
    sum(part.sum() for part in loss.values()).backward()
    found = {name: value.detach() for name, value in loss.items()}
    return found | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp(min=1e-9)
        assert error < 2e-5, name


@pytest.mark.parametrize("name", ["csm", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_loss_and_gradient_are_the_same(name: str) -> None:
    model, batch = CASES[name]()
    model.join_weights()
    expected = backward(model, batch)
    compile_blocks(model, backend=TRACED)
    assert_close(backward(model, batch), expected)
    assert num_graphs() > 0
    assert not counters["graph_break"], "each layer is one graph"


def test_nothing_is_compiled_again_for_other_shapes() -> None:
    model = make_model(seed=1)
    examples = examples_of(make_split([12, 5, 30, 7, 9]))
    batches = [
        collate(examples, rows, depth_fraction=0.5, draw=None)
        for rows in ([0, 1], [2, 3, 4], [1, 2, 3, 4], [0, 3])
    ]
    expected = [backward(model, batch) for batch in batches]
    compile_blocks(model, backend=TRACED)
    calls: list[int] = []
    with after_each_forward(lambda: calls.append(1)):  # as in a sweep
        assert_close(backward(model, batches[0]), expected[0])
        after_one = num_graphs()
        for batch, wanted in zip(batches[1:], expected[1:], strict=True):
            assert_close(backward(model, batch), wanted)
    assert num_graphs() == after_one == 2, "one for the backbone's layers, one for the decoder's"
    assert calls


def test_layers_that_keep_only_their_inputs() -> None:
    model, batch = CASES["csm"]()
    expected = backward(model, batch)
    compile_blocks(model, backend=TRACED)
    checkpoint_activations(model, CsmConfig(activation_checkpointing="full"))
    assert_close(backward(model, batch), expected)
    assert num_graphs() > 0


@pytest.fixture
def only_rank() -> Iterator[TorchRanks]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield TorchRanks("fsdp", "cpu")
    dist.destroy_process_group()


@pytest.mark.parametrize("recomputed", ["off", "full"])
def test_sharded_layers(only_rank: TorchRanks, recomputed: str) -> None:
    def build(*, is_empty: bool) -> SpeechModel:
        model, _ = CASES["csm"]()
        compile_blocks(model, backend=TRACED)
        checkpoint_activations(model, CsmConfig(activation_checkpointing=recomputed))
        return model

    model, batch = CASES["csm"]()
    expected = backward(model, batch)
    found = backward(only_rank.build(build), batch)
    sharded = {name for name, value in found.items() if isinstance(value, DTensor)}
    assert sharded == found.keys() - {"c0", "depth"}
    assert_close({n: found[n].full_tensor() if n in sharded else found[n] for n in found}, expected)
    assert num_graphs() == 2, "one for the backbone's layers, one for the decoder's"


def test_what_cannot_be_compiled() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel for this card")

    model, batch = CASES["csm"]()
    expected = backward(model, batch)
    compile_blocks(model, backend=broken)
    with pytest.raises(BackendCompilerFailed, match="no kernel for this card"):
        backward(model, batch)
    torch.compiler.reset()
    model, batch = CASES["csm"]()
    compile_blocks(model, may_fail=True, backend=broken)
    assert_close(backward(model, batch), expected)


def test_samples_are_made_by_what_is_written() -> None:
    model, batch = CASES["csm"]()
    compile_blocks(model, backend=TRACED)
    with torch.no_grad(), uncompiled():
        model(batch)
    assert num_graphs() == 0


# When


def choice(monkeypatch: pytest.MonkeyPatch, **options: Any) -> bool:
    """Ask for a run on a GPU that computes 1 MFLOP/s: a second for 50 positions or so."""
    monkeypatch.setattr(compiling, "card_tflops", lambda *_, **__: 1e-6 / compiling.ASSUMED_SHARE)
    config = CsmConfig(train_from_scratch=True, batch_size=4, **{"device": "cuda", **options})
    examples = examples_of(make_split([12] * 40))
    plan = RunPlan(config, examples, only_measure=False)
    return choose_compile(config, CsmFamily(), Store(Path("tokens.hdf5"), INFO, {}), plan)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> SpeechModel:
    model = make_model(seed=1)
    monkeypatch.setattr(CsmFamily, "empty_model", lambda *_: model)
    return model


def test_long_runs_on_a_gpu_are_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small: SpeechModel
) -> None:
    weights = sum(p.numel() for name in ("backbone", "decoder") for p in _layers(small, name))
    positions = sum(examples_of(make_split([12] * 40)).costs)
    epochs = 600 / (6 * weights * positions / 1e6)  # of ten minutes
    assert choice(monkeypatch, n_epochs=1.1 * epochs)
    assert "layers are compiled: about 11 min" in capsys.readouterr().out
    assert not choice(monkeypatch, n_epochs=0.9 * epochs)
    said = capsys.readouterr().out
    assert "layers are not compiled: about 9 min" in said
    assert "--compile on" in said
    assert choice(monkeypatch, n_epochs=0.9 * epochs, compile="on")
    assert not choice(monkeypatch, n_epochs=1.1 * epochs, compile="off")
    assert not choice(monkeypatch, n_epochs=1.1 * epochs, device="cpu")
    assert not choice(monkeypatch, n_epochs=1.1 * epochs, activation_checkpointing="selective")
    assert capsys.readouterr().out == ""


def _layers(model: Any, name: str) -> Iterator[Tensor]:
    return getattr(model, name).layers.parameters()


def test_a_machine_without_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_compiler()
    with pytest.raises(MachineError, match=r"install one .*--compile off"):
        compile_blocks(make_model(seed=1))


def test_selective_checkpointing_does_not_go_with_it() -> None:
    with pytest.raises(ConfigError, match=r"compile on: .*use off or full"):
        build(CsmConfig, {"compile": "on", "activation_checkpointing": "selective"})


@pytest.mark.parametrize("chosen", [True, False])
def test_what_is_compiled_is_kept_for_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, chosen: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = "/elsewhere" if chosen else default_cache_dir()  # which torchao sets
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", folder)
    compile_blocks(make_model(seed=1), backend=TRACED)
    own = str(tmp_path / "csm_ft" / "torchinductor")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == ("/elsewhere" if chosen else own)
