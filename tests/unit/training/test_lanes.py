"""What a lane does to the others when its part of a pass fails."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from csm_ft.training import lanes as lanes_module
from csm_ft.training.lanes import Lane, Lanes

BAD = -1.0


def loss_of(batch: Any) -> Any:
    """The loss of a batch, which is a number; raises for a bad one."""
    if batch == BAD:
        raise ValueError("a bad batch")
    return torch.tensor(batch, requires_grad=True)


def joint_loss(trunk: Any, models: Any, batches: list[float]) -> list[Tensor]:
    return [loss_of(batch) for batch in batches]


def out_of_memory(trunk: Any, models: Any, batches: list[float]) -> list[Tensor]:
    raise torch.OutOfMemoryError("no room")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> tuple[Lanes, Any, list[Lane]]:
    """Three lanes that wait for each other."""
    monkeypatch.setattr(lanes_module, "make_trunk", lambda model: model)
    monkeypatch.setattr(lanes_module, "share_frozen_weights", lambda model, trunk: None)
    monkeypatch.setattr(lanes_module, "joint_loss", joint_loss)
    lanes, key = Lanes(), Any
    members = [Lane(lanes, "cpu", "fp32") for _ in range(3)]
    for lane in members:
        lane.model = loss_of  # pyright: ignore[reportAttributeAccessIssue]
        shared = lanes.enter(lane, key)  # pyright: ignore[reportArgumentType]
        shared.training.add(lane)
    return lanes, shared, members


def step(lanes: Lanes, pool: Any, members: list[Lane], batches: list[float]) -> list[Any]:
    """Return the loss of each lane after both passes, or what it raised."""
    found: list[Any] = [None] * len(members)

    def passes(number: int) -> Callable[[], None]:
        def take() -> None:
            lane = members[number]
            try:
                loss: Any = lanes.forward(lane, pool, batches[number])  # pyright: ignore[reportArgumentType]
                lanes.backward(lane, loss)
                found[number] = loss.item(), loss.grad.item()
            except Exception as error:
                lanes.leave(lane, pool)
                found[number] = error

        return take

    threads = [threading.Thread(target=passes(i)) for i in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return found


def test_only_the_lane_at_fault_fails(pool: tuple[Lanes, Any, list[Lane]]) -> None:
    lanes, shared, members = pool
    found = step(lanes, shared, members, [1.0, BAD, 2.0])
    assert found[0] == (1.0, 1.0)
    assert found[2] == (2.0, 1.0)
    assert isinstance(found[1], ValueError)
    rest = [members[0], members[2]]
    assert step(lanes, shared, rest, [3.0, 4.0]) == [(3.0, 1.0), (4.0, 1.0)]


def test_want_of_memory_is_told_to_all(
    pool: tuple[Lanes, Any, list[Lane]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "joint_loss", out_of_memory)
    found = step(*pool, [1.0, 2.0, 3.0])
    assert [type(one) for one in found] == [torch.OutOfMemoryError] * 3
