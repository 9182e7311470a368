"""The simulator of searches: real decisions, recorded curves, and the table that is published."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.curves import RecordedCurve, read_recording
from benchmarks.curves import main as record
from benchmarks.search import STRATEGIES, main, put_into, simulate
from benchmarks.worlds import Recorded, Synthetic
from csm_ft.errors import UserError
from tests.helpers.sweep_folder import make_sweep

ROOT = Path(__file__).resolve().parents[3]
SPACE = str(ROOT / "configs" / "sweep.yaml")
CURVES = [
    RecordedCurve({"learning_rate": rate}, 0, [(k / 9, 3 + n / 10 + 1 / k) for k in range(1, 10)])
    for n, rate in enumerate((3e-5, 1e-4, 1e-5))
]


def test_same_seed_same_search() -> None:
    argv = ("--n_trials", "12", "--seed", "3")
    first, again = (simulate(Synthetic(3), argv, SPACE) for _ in range(2))
    assert first == again
    assert Fraction(first.cost).limit_denominator(9).denominator in (1, 3, 9)
    assert first != simulate(Synthetic(4), argv, SPACE)


def test_cost_counts_whole_runs() -> None:
    found = simulate(Synthetic(0), ("--n_trials", "5", "--pruner", "none"), SPACE)
    assert found.cost == 5
    confirmed = simulate(
        Synthetic(0), ("--n_trials", "5", "--pruner", "none", "--confirm", "1x2"), SPACE
    )
    assert confirmed.cost == 5 + 4
    assert 0 <= found.regret < 1


def test_landscape_without_noise_has_its_optimum_at_its_best_setting() -> None:
    world = Synthetic(5, noise=0)
    best = {
        "learning_rate": 10**world._rate,
        "batch_size": world._batch,
        "weight_decay": 10**world._decay,
        "decoder_loss_weight": world._weight,
        "warmup_steps": world._warmup,
    }
    assert world.truth(best) == pytest.approx(world.optimum)
    end = world.value(best, 0, 1.0)
    assert end is not None
    assert world.truth(best) < end < world.truth(best) + 0.01
    assert world.value({**best, "learning_rate": 10 ** (world._rate + 2)}, 0, 0.5) is None


def test_recorded_curves_are_replayed() -> None:
    world = Recorded(CURVES, untrained=9.0, noise=0)
    assert world.optimum == pytest.approx(3 + 1 / 9)
    assert world.truth({"learning_rate": 2.9e-5}) == pytest.approx(3 + 1 / 9)
    assert world.value({"learning_rate": 2e-4}, 0, 1 / 3) == pytest.approx(3.1 + 1 / 3)


def test_recording_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(tmp_path / "out", samples=False, num_trials=4)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (
        record(["--sweep", str(tmp_path / "out"), "--output", str(tmp_path / "curves.json")]) == 0
    )
    recording = read_recording(tmp_path / "curves.json")
    completed = [t for t in summary["trials"] if t["state"] == "completed"]
    assert [c.params for c in recording.curves] == [t["params"] for t in completed]
    for curve in recording.curves:
        shares = [share for share, _ in curve.points]
        assert shares == sorted(shares)
        assert shares[-1] == 1
    for trial in summary["trials"]:
        trial["state"] = "stopped"
    (tmp_path / "out" / "summary.json").write_text(json.dumps(summary))
    assert record(["--sweep", str(tmp_path / "out"), "--output", str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr()
    assert "record a sweep with --pruner none" in " ".join((said.out + said.err).split())


def test_table_goes_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- searches -->\nold\n<!-- end of searches -->\nafter\n")
    argv = ["--n_trials", "3", "--n_seeds", "2", "--sweep_config", SPACE, "--page", str(page)]
    assert main(argv) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- searches -->\n20")
    assert text.endswith("\n<!-- end of searches -->\nafter\n")
    assert "old" not in text
    assert all(f"| {name} |" in text for name in STRATEGIES)
    with pytest.raises(UserError, match="are missing; add both"):
        put_into(page, "other", "")


def costs(text: str) -> dict[str, tuple[float, float, float]]:
    """Return the cost, the regret and its error by strategy."""
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \|", text, re.MULTILINE)
    return {name: (float(cost), float(r), float(e)) for name, cost, r, e in rows}


def test_published_table_meets_its_targets() -> None:
    found = costs((ROOT / "docs" / "sweep.md").read_text())
    assert set(found) == set(STRATEGIES)
    asha, confirmed = found["tpe, asha (the default)"], found["the same, --confirm 3x2"]
    full = found["tpe, none stopped"]
    assert (asha[0] <= 20, confirmed[0] <= 28) == (True, True)
    for one in (asha, confirmed):
        assert one[1] - full[1] <= 2 * (one[2] ** 2 + full[2] ** 2) ** 0.5


@pytest.mark.slow
def test_search_costs_what_is_published() -> None:
    regrets: dict[str, list[float]] = {}
    for name, most in (("tpe, asha (the default)", 21.5), ("the same, --confirm 3x2", 29.5)):
        found = [
            simulate(Synthetic(s), (*STRATEGIES[name], "--n_trials", "50", "--seed", str(s)), SPACE)
            for s in range(100, 110)
        ]
        assert sum(one.cost for one in found) / 10 <= most
        regrets[name] = [one.regret for one in found]
        assert sum(regrets[name]) / 10 < 0.012
