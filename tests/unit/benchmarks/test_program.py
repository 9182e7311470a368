"""`python -m benchmarks` at its smallest: what it writes, and what it refuses."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks import figures, full, peers, sweep
from benchmarks.__main__ import main
from benchmarks.config import BenchmarkConfig
from benchmarks.page import write_page
from benchmarks.results import Result, newest, read_results, write_result
from benchmarks.table import table
from csm_ft.errors import DataError, OutOfMemoryError
from csm_ft.training.compiling import compile_blocks


@pytest.fixture(autouse=True)
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the program sets it; put back afterwards
    for name in peers.PATHS.values():
        monkeypatch.setenv(name, "")


def result(date: str = "2026-01-02", **figures: float) -> Result:
    return Result(date, "abc", "Chip <b>", 2, "tiny", {"torch": "1"}, figures)


def test_smallest_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--only", "data,generate", "--size", "tiny", "--rounds", "1"]
    assert main([*argv, "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    written = json.loads(path.read_text())
    known = {name for name in figures.FIGURES if name.startswith(("data.", "generate."))}
    assert set(written["figures"]) | set(written["not_measured"]) == known
    assert written["figures"]["generate.batch1.frame_ms"] > 0
    assert written["spread"]["data.lj.padding_bs8_percent"][2] == 0  # exact
    assert set(written["not_measured"]) == {
        "generate.batch1.peer_ratio",
        "generate.batch16.peer_ratio",
    }
    output = capsys.readouterr().out
    assert "not measured: set PEER_PATH to a checkout of the public trainer" in output
    assert "generate.batch1.frame_ms" in (tmp_path / "index.html").read_text()


def test_sweep_of_nothing(tmp_path: Path) -> None:
    argv = ["--only", "sweep", "--size", "tiny", "--rounds", "1", "--output", str(tmp_path)]
    assert main(argv) == 0
    assert read_results(tmp_path)[0].figures["sweep.gap_ms"] > 0


def test_pretokenising_is_timed(tmp_path: Path) -> None:
    argv = ["--only", "pretokenize", "--size", "tiny", "--rounds", "1", "--output", str(tmp_path)]
    assert main(argv) == 0
    found = read_results(tmp_path)[0].figures
    assert set(found) == {name for name in figures.FIGURES if name.startswith("pretokenize.")}
    assert min(found.values()) > 0


def test_part_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "measure", lambda config: 1 / 0)
    argv = ["--only", "sweep,data", "--size", "tiny", "--rounds", "1", "--output", str(tmp_path)]
    assert main(argv) == 1
    (written,) = read_results(tmp_path)
    assert written.not_measured["sweep.gap_ms"] == "it failed with ZeroDivisionError"
    assert "data.read_clip_us" in written.figures


@pytest.fixture
def short_full_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "STEPS_PER_ROUND", 1)
    monkeypatch.setattr(full, "NUM_FRAMES", 2)
    # Traced as for the compiler, which takes minutes.
    monkeypatch.setattr(full, "compile_blocks", partial(compile_blocks, backend="eager"))


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:The \.grad attribute:UserWarning")
@pytest.mark.usefixtures("short_full_run")
def test_what_a_gpu_is_measured_by_runs_on_a_cpu() -> None:
    found = full.measure(BenchmarkConfig(full=True, size="tiny", rounds=1))
    assert set(found) == {name for name in figures.FIGURES if name.startswith("full.")}
    measured = {name for name, one in found.items() if isinstance(one, figures.Measured)}
    last_names = {name.rpartition(".")[2] for name in measured}
    assert last_names == {"tokens_per_sec", "audio_hours_per_hour", "times_real_time"}
    assert found["full.bf16.mfu_percent"] == "no data sheet of this device is known"
    assert found["full.lora.peak_gb"] == found["full.lora.kernels"] == "it takes a GPU"


@pytest.mark.usefixtures("short_full_run")
def test_a_step_without_memory_tells_what_it_was_predicted_to_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(*_: object) -> None:
        raise OutOfMemoryError("full")

    monkeypatch.setattr(full, "optimizer_step", too_large)
    found = full.measure(BenchmarkConfig(full=True, size="tiny", rounds=1))
    assert found["full.pure.tokens_per_sec"] == "out of memory: it was predicted to need 0.0 GB"
    assert isinstance(found["full.generate.batch1.times_real_time"], figures.Measured)


def test_a_gpu_is_for_full_measurements_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda", "--only", "step"]) == 2
    assert "add --full, or leave --device out" in capsys.readouterr().err


def test_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "data,speed"]) == 2
    assert "'speed' is none of counts, data, startup" in capsys.readouterr().err


def test_second_result_of_a_day_is_kept(tmp_path: Path) -> None:
    paths = [write_result(result(**{"sweep.gap_ms": value}), tmp_path) for value in (1.0, 2.0)]
    assert [path.name for path in paths] == [f"2026-01-02-chip-b{end}.json" for end in ("", "-2")]
    values = [one.figures["sweep.gap_ms"] for one in read_results(tmp_path)]
    assert values == [1.0, 2.0]


def test_newest_figures_are_of_one_machine() -> None:
    first = result(**{"sweep.gap_ms": 1.0, "data.read_clip_us": 2.0})
    other = replace(result(**{"startup.help_train_ms": 9.0}), processor="another")
    last = result("2026-01-05", **{"sweep.gap_ms": 3.0})
    found = newest([first, other, last])
    assert found.date == "2026-01-05"
    assert found.figures == {"sweep.gap_ms": 3.0, "data.read_clip_us": 2.0}


def test_foreign_file_among_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"other\.json: not a result"):
        read_results(tmp_path)


def test_page_escapes_and_shows_history(tmp_path: Path) -> None:
    history = [result(f"2026-01-0{day}", **{"sweep.gap_ms": 10.0 * day}) for day in (1, 2, 3)]
    page = write_page(history, tmp_path).read_text()
    assert "Chip &lt;b&gt;" in page
    assert "<b>" not in page
    assert 'points="0.0,22.0 60.0,12.0 120.0,2.0 "' in page
    assert "2026-01-01: 10, 2026-01-02: 20, 2026-01-03: 30" in page
    assert "http" not in page.replace("http-equiv", "")


def test_table_says_what_is_reached() -> None:
    rows = table(result(**{"sweep.gap_ms": 20.0, "data.depth_frames_ratio": 1.2})).splitlines()
    assert rows[2].endswith("| 1.2 x | ≤ 1.02 x | no |")
    assert rows[3].endswith("| 20 ms | ≤ 50 ms | yes |")


@pytest.mark.slow
def test_moshi_beside_its_package(tmp_path: Path) -> None:
    argv = ["--only", "moshi", "--size", "tiny", "--rounds", "1", "--output", str(tmp_path)]
    assert main(argv) == 0
    found = read_results(tmp_path)[0].figures
    assert {name for name in figures.FIGURES if name.startswith("moshi.")} <= found.keys()


@pytest.mark.slow
def test_moonshine_beside_its_peers(tmp_path: Path) -> None:
    argv = ["--only", "moonshine", "--size", "tiny", "--rounds", "1", "--output", str(tmp_path)]
    assert main(argv) == 0
    found = read_results(tmp_path)[0].figures
    assert {name for name in figures.FIGURES if name.startswith("moonshine.")} <= found.keys()
