"""Exact counts that must not rise unnoticed: they are the same on every machine."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import counts, data
from benchmarks.counters import Operations, kept_for_backward
from benchmarks.figures import ratio
from benchmarks.kernels import bytes_per_position
from benchmarks.timing import interleave
from csm_ft.families.csm.model import random_model

MODEL = random_model(counts.NARROW, 0)
# Of torch's own compiler.
COMPILES = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")


def test_operations_of_csm_1b() -> None:
    """Lower the limits with each change that needs fewer."""
    found = counts.count_step()
    assert found["counts.csm1b.gemm"] <= 289
    assert found["counts.csm1b.other"] <= 1431
    assert found["counts.csm1b.other_mb_per_token"] <= 15.70
    assert found["counts.csm1b.saved_mb_per_token"] <= 1.73


@COMPILES
def test_bytes_with_compiled_layers() -> None:
    found = counts.count_compiled()
    assert found["counts.csm1b.compiled_other_mb_per_token"] <= 6.89


@COMPILES
def test_bytes_of_kernels() -> None:
    class SineOfProduct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight).float().sin()

    # x to bf16; fp32 sine of the bf16 product; its gradient in bf16, and that of x in fp32.
    expected = (4 + 2) + (2 + 4) + (4 + 2 + 2) + (2 + 4)
    assert bytes_per_position(SineOfProduct(), 16) == 16 * expected


def test_bytes_of_the_update() -> None:
    found = counts.count_update()
    assert found["counts.csm1b.update_bytes_per_weight"] <= 32.001
    assert found["counts.csm1b.clipped_update_bytes_per_weight"] <= 36.001


def test_no_host_read_in_forward_and_backward() -> None:
    batch = counts.batch_of(counts.NARROW, 2)
    assert counts.count_forward_backward(MODEL, batch).host_reads == 0


def test_operations_of_a_generated_frame() -> None:
    found = counts.count_frame()
    assert found["counts.frame.operations"] <= 2677.2
    assert found["counts.frame.host_reads"] <= 0.2


@pytest.mark.parametrize(
    ("kind", "batch_size", "percent"),
    [("lj", 8, 0.185), ("lj", 32, 0.182), ("conversation", 8, 1.23), ("conversation", 32, 1.15)],
)
def test_padding(kind: data.Kind, batch_size: int, percent: float) -> None:
    costs = data.costs_of(kind, 12_500)
    assert data.padding(data.plan(costs, batch_size), costs) <= percent


def test_operations_are_counted_by_kind() -> None:
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    with Operations() as counted:
        (layer(x).view(8) + 1).sum().item()
    assert counted.products == {"addmm": 1}
    assert counted.others == {"add": 1, "sum": 1}
    assert counted.host_reads == 1
    assert counted.other_bytes == (32 + 32) + (32 + 4)


def test_bytes_of_a_result_given_are_written_only() -> None:
    x, out = torch.ones(2, 4), torch.empty(2, 4)
    with Operations() as counted:
        torch.mul(x, x, out=out)
        x.mul_(x)
    assert counted.other_bytes == 6 * 32


def test_bytes_kept_for_backward_count_each_storage_once() -> None:
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    with kept_for_backward(layer) as kept:
        hidden = layer(x)
        (hidden * hidden).sum()
    assert sum(kept.values()) == 2 * 32  # x and hidden; the weight is not counted


def test_padding_and_repeats_by_hand() -> None:
    costs = np.array([1, 3, 2, 2])
    assert data.padding([[0, 1], [2, 3]], costs) == pytest.approx(20)
    assert data.repeated([[0, 1], [2, 3]], [[1, 0], [2], [3]]) == 50
    assert data.variation([[0, 1], [2, 3]], costs) == 0


def test_variants_take_turns() -> None:
    calls = list[str]()
    clock = itertools.count()
    times = interleave(
        {name: lambda number, name=name: calls.append(f"{name}{number}") for name in "ab"},
        rounds=2,
        clock=lambda: float(next(clock)),
    )
    assert calls == ["a0", "b0", "a0", "b0", "b1", "a1"]
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_ratio_is_of_each_round() -> None:
    found = ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0])
    assert (found.value, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)
