"""The figure and the sentence on how much data would help."""

from csm_ft.report.data_curve import data_curve
from csm_ft.sweep.records import CurvePoint, DataCurve, Summary
from tests.helpers.sweep_folder import write_summary
from tests.unit.report.reading import Sweep, build, figures, prose

POINTS = [
    CurvePoint(share=share, mean=4 + 1 / share, deviation=0.1, num_seeds=3)
    for share in (0.25, 0.5, 1.0)
]
LINE = [(x / 8, 4 + 8 / x, 3 + 8 / x, 5 + 8 / x) for x in range(2, 17)]
CURVE = DataCurve(text="With twice the data expect less.", points=POINTS, line=LINE)


def test_points_have_error_bars() -> None:
    figure = data_curve(Summary(study="s", state="finished", data_curve=CURVE))
    assert figure is not None
    points = figure["data"][-1]
    assert (points["x"], points["y"]) == ([0.25, 0.5, 1.0], [8.0, 6.0, 5.0])
    assert points["error_y"]["array"] == [0.1] * 3
    assert figure["layout"]["xaxis"]["tickvals"] == [0.25, 0.5, 1.0, 2.0]


def test_line_beyond_the_data_is_dashed() -> None:
    figure = data_curve(Summary(study="s", state="finished", data_curve=CURVE))
    assert figure is not None
    lines = {trace["name"]: trace for trace in figure["data"]}
    assert max(lines["power law"]["x"]) == 1
    assert (min(lines["with more data"]["x"]), max(lines["with more data"]["x"])) == (1, 2)
    assert lines["with more data"]["line"]["dash"] == "dash"


def test_a_curve_without_fit_shows_its_points() -> None:
    few = DataCurve(text="A learning curve needs 3 shares.", points=POINTS[:2])
    figure = data_curve(Summary(study="s", state="finished", data_curve=few))
    assert figure is not None
    assert len(figure["data"]) == 1


def test_the_page_says_what_more_would_bring(sweep: Sweep) -> None:
    out, facts = sweep
    assert "How much data?" not in prose(build(out))
    write_summary(out, {**facts, "data_curve": CURVE.model_dump(mode="json")})
    page = build(out)
    assert "How much data? With twice the data expect less." in prose(page)
    assert "data-curve" in figures(page)
