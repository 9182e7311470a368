"""How many workers share a GPU, by a clock of its own."""

from pathlib import Path

import pytest

from csm_ft.sweep.packing import Packing, measure_memory_use
from csm_ft.sweep.worker_process import Slot

SLOTS = [
    Slot(f"gpu{gpu}.{place}", {}, gpu=str(gpu), place=place) for place in range(4) for gpu in (0, 1)
]


class Sweep:
    """Workers that together train `rate(level)` examples per second."""

    def __init__(
        self, rates: dict[int, float], use_by_level: dict[int, float] | None = None
    ) -> None:
        self.now_sec, self.seen = 0.0, 0.0
        self.rates, self.use = rates, use_by_level or {}
        self.packing = Packing(
            SLOTS,
            is_auto=True,
            window_sec=60,
            memory_use=lambda _: self.use.get(self.packing.level, 0.1),
            clock=lambda: self.now_sec,
        )

    def run(self, seconds: int = 1000) -> list[str]:
        said = []
        for _ in range(seconds):
            self.now_sec += 1
            self.seen += self.rates[self.packing.level]
            for slot in filter(self.packing.admits, SLOTS):
                is_first = slot is SLOTS[0]
                self.packing.stepped(slot, SLOTS.index(slot), int(self.seen) if is_first else 0)
            said.append(self.packing.update())
        return [text for text in said if text]


def test_level_stays_where_one_more_gains_nothing() -> None:
    sweep = Sweep({1: 10, 2: 16, 3: 16.5})
    assert sweep.run() == [
        "trials per GPU: 2 from now on (10.0 examples/s with one less)",
        "trials per GPU: 3 from now on (16.0 examples/s with one less)",
        "trials per GPU: 2, as 3 workers train 16.5 examples/s, 16.0 with one less",
    ]
    assert sweep.packing.is_settled
    assert [slot.name for slot in filter(sweep.packing.admits, SLOTS)] == [
        "gpu0.0",
        "gpu1.0",
        "gpu0.1",
        "gpu1.1",
    ]


def test_memory_is_the_limit() -> None:
    sweep = Sweep({1: 10, 2: 20, 3: 30}, {1: 0.35, 2: 0.7})
    assert sweep.run()[-1] == "trials per GPU: 2, as they take 70% of the memory"


def test_no_more_than_the_slots() -> None:
    sweep = Sweep({1: 10, 2: 20, 3: 30, 4: 40})
    assert sweep.run()[-1] == "trials per GPU: 4, as more are not tried"


def test_out_of_memory_goes_back() -> None:
    sweep = Sweep({1: 10, 2: 20, 3: 30, 4: 40})
    sweep.run(70)
    assert sweep.packing.level == 2
    assert (
        sweep.packing.out_of_memory()
        == "trials per GPU: 1, as with one more, a trial ran out of memory"
    )
    assert sweep.run() == []
    assert sweep.packing.out_of_memory() == "", "a worker alone needs smaller micro-batches"


def test_fixed_number_uses_all_slots_at_once() -> None:
    packing = Packing(SLOTS, is_auto=False)
    assert all(packing.admits(slot) for slot in SLOTS)
    assert packing.out_of_memory() == ""


def test_memory_of_gpus_is_that_of_the_fullest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$3" = --id=0,3 ] && printf "100, 1000\\n700, 1000\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert measure_memory_use(["0", "3"]) == 0.7
    assert 0 < measure_memory_use([""]) < 1
