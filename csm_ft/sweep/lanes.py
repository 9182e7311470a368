"""`--packed_lora K`: a worker process with K lanes, each of which runs one trial after the other.

Their trials are threads that share passes (training/lanes.py), and an end: a process that dies
takes all of its trials along, which says little about each. One that this happens to again and
again is run alone, to see whether it is at fault (outcomes.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from csm_ft.errors import ConfigError
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.space import Space
from csm_ft.sweep.worker_process import (
    Job,
    Slot,
    Worker,
    end_process,
    is_stopped,
    launch,
    open_log,
    send_signal,
)


class LaneProcess:
    """A worker process on this machine with a lane for each of its slots."""

    def __init__(self, slots: Sequence[Slot], trainer: str, log: Path) -> None:
        """Start it; one log has what all of its lanes print."""
        self.is_spent = False
        self.lanes: list[LaneWorker] = []  # those that have been started and not ended
        self.log = log
        with open_log(log) as output:
            self.process, links = launch(
                slots[0].environment,
                trainer,
                num_links=len(slots),
                output=output,
                own_session=True,
            )
        names = [slot.name for slot in slots]
        self.links = dict(zip(names, links, strict=True))

    def end(self, lane: "LaneWorker") -> int:
        """Let go of a lane, whose link is closed; return the process's exit code, 0 if it lives.

        It ends with a lane that runs a trial, and with the last one. What made the lane end may
        have left anything behind, so the others get no more jobs.
        """
        self.is_spent = True
        self.lanes.remove(lane)
        is_idle = lane.job is None
        if self.process.returncode is None and self.lanes and is_idle and not lane.is_dead:
            return 0
        if not self.lanes:
            for link in self.links.values():  # of lanes that were never needed, too
                link.close()
        return self.process.returncode or end_process(self.process, is_idle=is_idle)


class LaneWorker(Worker):
    """One lane, which is to the broker what a worker process is."""

    def __init__(self, slot: Slot, process: LaneProcess) -> None:
        super().__init__(slot, process.log)
        self._process, self.link = process, process.links[slot.name]
        process.lanes.append(self)

    @property
    def is_spent(self) -> bool:
        """Whether the process gets no more jobs."""
        return self._process.is_spent

    def start(self, job: Job, config: dict[str, object]) -> None:
        """Give it something to do, in the company of the trials that run in the other lanes."""
        others = [lane for lane in self._process.lanes if lane is not self and lane.job]
        self.has_company = bool(others)
        for other in others:
            other.has_company = True
        super().start(job, config)

    def signal(self, number: int) -> None:
        """Send a signal to the process, and so to all of its lanes."""
        send_signal(self._process.process, number)

    def identity(self) -> Mapping[str, object]:
        """Return the number of the process."""
        return {"pid": self._process.process.pid}

    def is_stopped(self) -> bool:
        """Tell whether the process is stopped."""
        return is_stopped(self._process.process)

    def kill(self) -> int:
        """End the lane; with a job, or as the last one, the process. Return its exit code, or 0."""
        self.link.close()
        return self._process.end(self)


def with_lanes(slots: Sequence[Slot], num_lanes: int) -> list[Slot]:
    """Return so many slots in place of each, which share its process; first one of each."""
    return [
        Slot(f"{slot.name}:{lane}", slot.environment, slot.gpu, slot.place, lane_of=slot.name)
        for lane in range(num_lanes)
        for slot in slots
    ]


# What trials that share passes cannot have (families/lanes.py), where it is not this value.
_NEEDED: Mapping[str, Any] = {
    "method": "lora",
    "lora_dropout": 0,
    "lora_dora": False,
    "lora_embeddings": False,
    "activation_checkpointing": "off",
}


def check_lanes(sweep: SweepConfig, space: Space) -> None:
    """Raise ConfigError where trials could not share passes, as --packed_lora wants."""
    if sweep.packed_lora == 1:
        return
    what = f"packed_lora {sweep.packed_lora} trains adapters by passes that trials share"
    for name, needed in _NEEDED.items():
        values = _values(space, name)
        if wrong := [value for value in values if value != needed]:
            raise ConfigError(
                f"{name} {wrong[0]}: {what}, which needs {name} {needed} in every trial; give"
                f" --{name} {needed} and do not search it, or leave out --packed_lora"
            )
    if "bf16_pure" in _values(space, "dtype"):
        raise ConfigError(f"dtype bf16_pure: {what}, which it cannot; use --dtype bf16")
    if "on" in _values(space, "compile"):
        raise ConfigError(f"compile on: {what}, which are not compiled; leave out --compile")
    if space.base.parallel in ("ddp", "fsdp"):
        raise ConfigError(
            f"parallel {space.base.parallel}: {what}, each of them in one process; drop --parallel"
        )


def _values(space: Space, name: str) -> Sequence[Any]:
    """Return the values that an option has in trials; of a range, its ends."""
    if name in space.computed:
        return [space.computed[name].text]
    searched = next((one for one in space.parameters if one.name == name), None)
    if searched is None:
        return [value] if (value := getattr(space.base, name, None)) is not None else []
    match searched.distribution:
        case CategoricalDistribution(choices=choices):
            return choices
        case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
            return [low, high]
        case _:
            return [searched.default]
