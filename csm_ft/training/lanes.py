"""Runs in the threads of one process that train adapters on the same base, pass by pass together.

Each run is train.py's loop in a thread of its own, with a model, batches, optimiser and folder of
its own. Only forward and backward passes meet here: once all runs that are training have brought a
micro-batch, the last to come takes one pass for all (families/lanes.py). Nobody waits for a run
that validates, generates, saves or loads.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from csm_ft.errors import OutOfMemoryError
from csm_ft.families.lanes import (
    LaneKey,
    adapted_layers,
    joint_loss,
    lane_key,
    make_trunk,
    share_frozen_weights,
)
from csm_ft.families.model import Batch, Loss, SpeechModel
from csm_ft.ranks import Build, Ranks

T = TypeVar("T")


class _Pass:
    """One forward pass and its backward pass, of the lanes that met for it."""

    def __init__(self, lanes: Sequence["Lane"]) -> None:
        self.waited_for = set(lanes)  # before the backward pass
        self.losses: dict[Lane, Loss] = {}
        self.totals: dict[Lane, Tensor] = {}
        self.is_done = False
        self.error: BaseException | None = None

    def backward(self) -> None:
        """Take the backward pass of the lanes that are still there."""
        try:
            totals = list(self.totals.values())
            sum(totals[1:], totals[0]).backward()
        except BaseException as error:  # each lane raises it
            self.error = error
        self.is_done, self.losses, self.totals = True, {}, {}


class _Pool:
    """Lanes that share a trunk."""

    def __init__(self, trunk: SpeechModel) -> None:
        self.trunk = trunk
        self.lanes: set[Lane] = set()
        self.training: set[Lane] = set()  # the next pass waits for these
        self.arrived: dict[Lane, Batch] = {}  # with their micro-batches

    def forward(self) -> None:
        """Take the forward pass of all lanes that have arrived.

        Each has one of its own where that fails, so that only the lane at fault raises what it is;
        but not for want of memory, of which that would take no less.
        """
        arrived, self.arrived = self.arrived, {}
        if len(arrived) > 1:
            try:
                return self._forward(arrived)
            except (torch.OutOfMemoryError, OutOfMemoryError) as error:
                return _fail(arrived, error)
            except Exception as error:
                print(f"lanes: a pass of {len(arrived)} failed, each takes its own: {error!r}")
        for lane, batch in arrived.items():
            try:
                self._forward({lane: batch})
            except Exception as error:
                _fail([lane], error)

    def _forward(self, arrived: dict["Lane", Batch]) -> None:
        first, batches = next(iter(arrived)), list(arrived.values())
        if len(arrived) == 1:
            losses = [first.model(batches[0])]
        else:
            losses = joint_loss(self.trunk, [lane.adapted for lane in arrived], batches)
        begun = _Pass(list(arrived))
        begun.losses = dict(zip(arrived, losses, strict=True))
        for lane in arrived:
            lane.joined = begun


def _fail(lanes: Iterable["Lane"], error: Exception) -> None:
    """Let each of the lanes raise what its pass ended with."""
    for lane in lanes:
        lane.joined = failed = _Pass([lane])
        failed.error, failed.is_done = error, True


class Lanes:
    """All lanes of a process."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.num_passes = self.num_joined = 0  # passes taken, and the lanes of all of them
        self._pools: dict[tuple[LaneKey, str], _Pool] = {}

    def enter(self, lane: "Lane", key: LaneKey) -> _Pool:
        """Give a lane its place beside those of its kind, whose frozen weights it shares."""
        with self.changed:
            pool = self._pools.get((key, lane.dtype))
            if pool is None:
                pool = self._pools[key, lane.dtype] = _Pool(make_trunk(lane.model))
            else:
                share_frozen_weights(lane.model, pool.trunk)
            pool.lanes.add(lane)
            return pool

    def leave(self, lane: "Lane", pool: _Pool) -> None:
        """Take a lane out; the last of its kind frees the trunk."""
        self.step_aside(lane, pool)
        with self.changed:
            pool.lanes.discard(lane)
            if not pool.lanes:
                self._pools = {key: one for key, one in self._pools.items() if one is not pool}

    def step_aside(self, lane: "Lane", pool: _Pool) -> None:
        """Let no pass wait for a lane, until it brings a micro-batch again."""
        with self.changed:
            pool.training.discard(lane)
            if lane.joined is not None:  # it failed between the passes
                lane.joined.waited_for.discard(lane)
                lane.joined = None
            self.changed.notify_all()

    def forward(self, lane: "Lane", pool: _Pool, batch: Batch) -> Loss:
        """Wait for the other lanes in training; return the loss of this one's micro-batch."""
        with self.changed:
            pool.training.add(lane)
            pool.arrived[lane] = batch
            self.changed.notify_all()
            while lane in pool.arrived:
                if pool.arrived.keys() >= pool.training:
                    self.num_passes += 1
                    self.num_joined += len(pool.arrived)
                    pool.forward()
                    self.changed.notify_all()
                else:
                    self.changed.wait()
            joined = lane.joined
            assert joined is not None, "a pass was taken"
            if joined.error is not None:
                lane.joined = None
                raise joined.error
            return joined.losses[lane]

    def backward(self, lane: "Lane", total: Tensor) -> None:
        """Wait for the other lanes of this pass; then the adapters have their gradients."""
        with self.changed:
            joined = lane.joined
            assert joined is not None, "backward follows forward"
            joined.totals[lane] = total
            self.changed.notify_all()
            while not joined.is_done:
                if joined.totals.keys() >= joined.waited_for:
                    joined.backward()
                    self.changed.notify_all()
                else:
                    self.changed.wait()
            lane.joined = None
            if joined.error is not None:
                raise joined.error


class Lane(Ranks):
    """One run among those of this process; where it cannot share a pass, as if it were alone."""

    model: SpeechModel
    shares_passes = True

    def __init__(self, lanes: Lanes, device: str, dtype: str) -> None:
        """`dtype` is that of passes, as --dtype says."""
        self.dtype = dtype
        self.adapted: Mapping[str, Any] = {}  # the layers with its adapters
        self.joined: _Pass | None = None  # the pass that it has a part in
        self._lanes, self._device = lanes, device
        self._pool: _Pool | None = None

    def build(self, build: Build[T]) -> T:
        """Return the model, on its device, with frozen weights that it shares with other lanes."""
        self.model = cast(SpeechModel, build(is_empty=False))
        self.model.to(self._device)
        self.model.join_weights()
        self.adapted = adapted_layers(self.model)
        key = lane_key(self.model)
        self._pool = None if key is None else self._lanes.enter(self, key)
        return cast(T, self.model)

    def forward(self, model: nn.Module, batch: Any, *, is_last: bool) -> Any:
        """Return the loss of the batch, from a pass with those of other lanes."""
        del is_last
        return model(batch) if self._pool is None else self._lanes.forward(self, self._pool, batch)

    def backward(self, total: Tensor) -> None:
        """Take the backward pass with those of other lanes."""
        if self._pool is None:
            total.backward()
        else:
            self._lanes.backward(self, total)

    def watch(self, alive: Any) -> Any:
        """Return `alive`; while the run does something else than steps, no other waits for it."""

        def watched(doing: Any = None) -> None:
            if doing is not None and self._pool is not None:
                self._lanes.step_aside(self, self._pool)
            alive(doing)

        return watched

    def close(self) -> None:
        """Give up the place among the lanes."""
        if self._pool is not None:
            self._lanes.leave(self, self._pool)
            self._pool = None
