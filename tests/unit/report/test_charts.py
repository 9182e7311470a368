"""The figures: axes, units, and which trials they show."""

import html
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csm_ft.report import charts, data, traces
from csm_ft.sweep.records import Summary, TrialRecord
from tests.helpers.sweep_folder import make_sweep, write_summary
from tests.unit.report.reading import NASTY, Sweep, build, figures, prose


def test_axes_suit_their_parameters(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=10)
    axes = {
        f["layout"]["xaxis"]["title"]["text"]: f["layout"]["xaxis"]
        for i, f in figures(build(tmp_path)).items()
        if i.startswith("slice")
    }
    assert axes["learning_rate"]["type"] == axes["weight_decay"]["type"] == "log"
    assert axes["warmup_steps"]["categoryarray"] == ["2%", "5%", "10%"]
    assert axes["batch_size"].get("type") is None
    assert axes["batch_size"]["tickvals"] == [4, 8, 16]


def test_failed_trials_have_no_value(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=10)
    drawn = figures(build(tmp_path))
    high = drawn["history"]["layout"]["yaxis"]["range"][1]
    by_name = {trace["name"]: trace for trace in drawn["history"]["data"]}
    assert high < 11.7
    assert by_name["diverged"]["y"] == by_name["set aside"]["y"] == [high]
    shapes = [
        by_name[name]["marker"]["symbol"]
        for name in ("completed", "stopped early", "diverged", "infeasible", "set aside")
    ]
    assert len(set(shapes)) == 5
    assert all(
        value < 11
        for figure in drawn.values()
        if figure["id"].startswith("slice")
        for value in figure["data"][0]["y"]
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["completed", "stopped", "diverged"]), st.none() | st.floats(0, 20)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_best_so_far_counts_completed_trials(rows: list[tuple[Any, float | None]]) -> None:
    trials = [TrialRecord(number=i, state=s, value=v, dir="t") for i, (s, v) in enumerate(rows)]
    figure = charts.history(Summary(study="s", state="running", trials=trials))
    if figure is None:
        assert all(v is None and s != "diverged" for s, v in rows)
        return
    line = next(t for t in figure["data"] if t["name"] == "best so far")
    expected = accumulate(
        (v if s == "completed" and v is not None else math.inf for s, v in rows), min
    )
    assert line["y"] == [value for value in expected if value < math.inf]


@given(st.integers(1, 1000), st.integers(0, 999))
def test_thinned_curves_keep_lowest_point(length: int, lowest: int) -> None:
    points = [data.Validation(i, 0.0 if i == lowest else 1.0 + i) for i in range(length)]
    thin = traces.thin(points)
    assert len(thin) <= traces.MAX_POINTS + 1
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert min(p.value for p in thin) == min(p.value for p in points)
    assert thin == sorted(thin, key=lambda p: p.examples)


def test_unit_comes_from_the_summary(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, text_only=True)
    text = build(tmp_path)
    assert "validation loss in nats per text token; lower is better" in prose(text)
    assert "Lossthe text of all segments" in prose(text)
    for name in ("history", "curves"):
        axis = figures(text)[name]["layout"]["yaxis"]
        assert axis["title"]["text"] == "validation loss, nats per text token"
    summary |= {"objective_metric": "val_wer", "unit": NASTY}
    write_summary(tmp_path, summary)
    title = figures(build(tmp_path))["history"]["layout"]["yaxis"]["title"]["text"]
    assert title == html.escape(f"val_wer, {NASTY}")


def test_curves_follow_the_objective(sweep: Sweep) -> None:
    out, summary = sweep
    write_summary(out, summary | {"objective_metric": "val_first"})
    text = build(out)
    lowest = min(y for trace in figures(text)["curves"]["data"] for y in trace["y"] if y)
    assert lowest < 2.5
    assert "val_first in nats per frame; lower is better" in prose(text)
    assert "last value val_loss val_rest" in re.sub("_ ", "_", prose(text))
