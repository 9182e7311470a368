"""The plan of a sweep that has begun, and one whose sizes are not known."""

from pathlib import Path

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.errors import HubError
from csm_ft.runs.folder import SweepFolder
from csm_ft.runs.sizes import Sizes
from csm_ft.sweep.cost import expected_runs
from csm_ft.sweep.disk import check_disk, needed_bytes
from csm_ft.sweep.dry_run import describe_plan
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.slots import choose_machine
from csm_ft.sweep.space import make_space
from csm_ft.sweep.trials import Configs, DataFacts, Plan, plan_study
from tests.helpers.sweep_folder import make_sweep

SIZES = Sizes(weights_bytes=6 * 10**9, optimizer_bytes=12 * 10**9, memory_bytes=24 * 10**9)


def prepare(tmp_path: Path, *argv: str) -> tuple[Plan, Configs]:
    space = tmp_path / "space.yaml"
    space.write_text("batch_size: {type: categorical, values: [4, 8, 16]}\n")
    request = parse(["--output_dir", str(tmp_path / "out"), "--device", "cpu", *argv])
    found = make_space(read_rows(space, request), 100)
    machine = choose_machine(request.sweep, device="cpu", threads=1)
    configs = Configs(SweepFolder(tmp_path / "out"), request.sweep, found.base, machine)
    return plan_study(request.sweep, found, DataFacts(100, "x")), configs


def test_plan_of_a_sweep_that_has_begun(tmp_path: Path) -> None:
    make_sweep(tmp_path / "out", samples=False)
    plan, configs = prepare(tmp_path, "--n_trials", "10", "--n_gpus", "2", "--pruner", "none")
    said = describe_plan(plan, configs, lambda _: SIZES).splitlines()
    assert said[0].endswith(": 6 trials have ended, 0 continue")
    assert said[1] == "trials: 10 over batch_size (3 settings), after the untrained model"
    assert said[2] == "each: 500 examples; none is stopped early"
    assert (
        said[3]
        == "cost: about 10 full runs for the search; --confirm 3x2 would add 8 to tell luck from gain"
    )
    assert said[5] == "time: about 2 min 01 s for 4 more, as for those that have ended"
    assert said[6].startswith("disk: up to 162,000 MB for weights and checkpoints (disk /")
    assert (
        said[7]
        == "memory: 24,000 MB per trial for weights, gradients, optimiser, besides activations"
    )
    assert said[8] == "nothing was started or written"


def test_plan_of_trials_on_several_gpus(tmp_path: Path) -> None:
    ranks = ("--n_gpus", "4", "--gpus_per_trial", "2")
    said = describe_plan(*prepare(tmp_path, *ranks, "--parallel", "fsdp"), lambda _: SIZES)
    assert "workers: cpu0, cpu1; each trains a trial on 2 processes on the CPU (fsdp)" in said
    assert "memory: 12,000 MB on each of the 2 GPUs of a trial for weights" in said
    said = describe_plan(*prepare(tmp_path, *ranks), lambda _: SIZES)
    assert "(ddp)" in said
    assert "memory: 24,000 MB on each of the 2 GPUs of a trial" in said


def test_sizes_that_are_not_known(tmp_path: Path) -> None:
    def measure(_config: TrainConfig) -> Sizes:
        raise HubError("sesame/csm-1b: not in the cache")

    said = describe_plan(*prepare(tmp_path), measure)
    assert "disk and memory: not known: sesame/csm-1b: not in the cache" in said
    assert not (tmp_path / "out").exists()


def test_what_is_there_already_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers keep 36 and draft 24 each, three trials keep 36, and the default its best."""
    small = Sizes(weights_bytes=12, optimizer_bytes=12, memory_bytes=0)
    assert needed_bytes(small, num_workers=2, num_trials=9) == 2 * 60 + 3 * 36 + 12
    assert needed_bytes(small, num_workers=2, num_trials=1) == 60 + 36 + 12
    checkpoint = tmp_path / "trials" / "0001" / "checkpoints" / "best" / "model.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(bytes(200))
    monkeypatch.setattr("csm_ft.sweep.disk.free_bytes", lambda _: 40)
    check_disk(SweepFolder(tmp_path), small, num_workers=2, num_trials=9)
    with pytest.raises(Exception, match="take up to 0 MB with 3 workers"):
        check_disk(SweepFolder(tmp_path), small, num_workers=3, num_trials=9)


def test_plan_with_seeds_says_both_costs(tmp_path: Path) -> None:
    plan, configs = prepare(tmp_path, "--n_trials", "50", "--confirm", "3x2")
    said = describe_plan(plan, configs, lambda _: SIZES)
    line = (
        "cost: about 18 full runs for the search, 26 with 8 more runs of the default and the best 3,"
        " by 2 more seeds each"
    )
    assert line in said.splitlines()


@pytest.mark.parametrize(
    ("pruner", "low", "high"),
    [("asha", 17, 22), ("none", 50, 50), ("hyperband", 25, 33), ("median", 24, 32)],
)
def test_cost_is_that_of_the_rule(tmp_path: Path, pruner: str, low: float, high: float) -> None:
    plan, _ = prepare(tmp_path, "--n_trials", "50", "--pruner", pruner)
    assert low <= expected_runs(plan) <= high
    doubled, _ = prepare(tmp_path, "--n_trials", "200", "--pruner", pruner)
    of_hundred, _ = prepare(tmp_path, "--n_trials", "100", "--pruner", pruner)
    assert expected_runs(doubled) == pytest.approx(2 * expected_runs(of_hundred))
    unlearned, _ = prepare(tmp_path, "--n_trials", "50", "--pruner", pruner, "--sampler", "qmc")
    assert expected_runs(unlearned) <= expected_runs(plan)
