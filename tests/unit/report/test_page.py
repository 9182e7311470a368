import base64
import hashlib
import html
import json
import math
import re
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.report import ReportError, build_report, charts, data, listen, page, sound, templating
from csm_ft.report.__main__ import main
from tests.helpers.sweep_folder import SAMPLE_RATE_HZ, make_run, make_sweep, speech, write_summary

NASTY = "</script><script>alert(1)</script> & \"quotes\" 'too'"

Sweep = tuple[Path, dict[str, Any]]


def build(out: Path) -> str:
    return build_report(out).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its scripts, styles and recordings."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text)))


def figures(text: str) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL
    )
    assert found
    return {figure["id"]: figure for figure in json.loads(found[1])}


def scripts(text: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    out = tmp_path / "exp" / "demo"
    out.mkdir(parents=True)
    return out, make_sweep(out)


def test_page_says_what_was_found(sweep: Sweep) -> None:
    out, summary = sweep
    text = build(out)
    words = prose(text)
    best = summary["trials"][summary["best"]]
    assert summary["verdict"]["text"] in words
    assert f"Best · trial {best['number']}{best['value']:.3f}" in words.replace(" <", "<")
    assert "7.812" in words
    assert "6 of 6 ended: 3 completed, 2 stopped early, 1 diverged" in words
    assert "4 min 31 s on the clock" in words
    assert f"python train.py --config {out}/best.yaml" in words
    assert "loss is not finite at step 34 (learning_rate 0.003)" in words
    assert "best/model.safetensors" in words
    assert set(figures(text)) >= {"history", "curves", "importance", "slice0"}
    assert len(text.encode()) <= 10_000_000
    assert "Read with caution" in words


def test_page_is_one_file_that_asks_for_nothing(sweep: Sweep) -> None:
    text = build(sweep[0])
    outside = text
    for script in scripts(text):
        outside = outside.replace(script, "")
    assert "http://" not in outside
    assert "https://" not in outside
    sources = set(re.findall(r'src="([^"]{0,30})', outside))
    assert sources
    assert all(source.startswith("data:audio/mpeg;base64,") for source in sources)
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\")", outside)


def test_policy_allows_exactly_the_scripts_of_the_page(sweep: Sweep) -> None:
    text = build(sweep[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "connect-src 'none'" in policy[1]
    allowed = re.findall(r"'sha256-([^']*)'", policy[1])
    assert allowed == [
        base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts(text)
    ]
    assert "unsafe-eval" not in policy[1]
    assert "'unsafe-inline'" not in policy[1].split("style-src")[0]


def test_everything_is_escaped(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, sentences={"aaaa": (NASTY, NASTY), "bbbb": ("fine", "")})
    before = len(re.findall("<script", build(tmp_path)))
    for trial in summary["trials"]:
        trial["reason"] = NASTY
        trial["params"] = {
            NASTY: f"{NASTY}{trial['number']}",
            "img": "<img src=x onerror=alert(1)>",
        }
    summary |= {
        "study": NASTY,
        "data": NASTY,
        "objective": NASTY,
        "device": NASTY,
        "importance": {NASTY: {NASTY: 1.0}},
        "importance_of": NASTY,
    }
    summary["verdict"]["text"] = NASTY
    write_summary(tmp_path, summary)
    text = build(tmp_path)
    assert len(re.findall("<script", text)) == before
    assert "<script>alert" not in text
    assert "<img" not in text.replace(scripts(text)[0], "")
    assert prose(text).count("alert(1)") > 10
    assert html.escape(NASTY) in figures(text)["slice0"]["layout"]["xaxis"]["title"]["text"]


@pytest.mark.parametrize("num_trials", [0, 1, 2])
def test_few_trials(tmp_path: Path, num_trials: int) -> None:
    make_sweep(tmp_path, num_trials=num_trials)
    words = prose(build(tmp_path))
    assert f"{num_trials} of {num_trials} ended" in words
    assert ("No trial has begun yet" in words) == (num_trials == 0)
    assert ("No trial has a value yet" in words) == (num_trials == 0)
    assert ("There is no best trial yet" in words) == (num_trials == 0)
    if num_trials == 1:
        assert "the default is the best" in words
        assert "Best = default (trial 0)" in words


def test_running_sweep_without_baseline_samples_or_values(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=2, samples=False)
    for trial, state in zip(summary["trials"], ("running", "waiting"), strict=True):
        trial |= {
            "state": state,
            "value": None,
            "final_value": None,
            "best_examples": None,
            "best_epoch": None,
            "seconds": None,
        }
    summary |= {
        "state": "running",
        "baseline": None,
        "best": None,
        "verdict": None,
        "importance": {},
        "n_trials": 6,
        "n_workers": None,
    }
    write_summary(tmp_path, summary)
    words = prose(build(tmp_path))
    assert "1 waiting trial is not listed." in words
    for sentence in (
        "No verdict yet: the sweep is running",
        "0 of 6 ended: 1 running, 1 waiting",
        "not measured",
        "none completed yet",
        "No recordings are there yet",
        "No trial has a value yet",
        "Not computed",
    ):
        assert sentence in words


def test_unfinished_settings_are_called_so(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=0)
    (tmp_path / "best.yaml").write_text("# UNFINISHED")
    assert "until a trial is completed, best.yaml holds the best settings seen so far" in prose(
        build(tmp_path)
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "against the base (so far)"), ("stopped", "against the base (stopped early)")],
)
def test_an_unfinished_default_is_called_so(tmp_path: Path, state: str, words: str) -> None:
    summary = make_sweep(tmp_path, num_trials=2)
    summary["trials"][0]["state"] = state
    write_summary(tmp_path, summary)
    assert words in prose(build(tmp_path))


def test_command_is_written_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "exp" / "my sweep"
    out.mkdir(parents=True)
    make_sweep(out, num_trials=1)
    monkeypatch.chdir(tmp_path)
    assert "python train.py --config 'exp/my sweep/best.yaml'" in prose(build(out))


def test_minimal_summary(tmp_path: Path) -> None:
    write_summary(
        tmp_path,
        {"study": "s", "state": "unfinished", "rungs": None, "trials": None, "importance": None},
    )
    words = prose(build(tmp_path))
    assert "No verdict: no trial was completed." in words
    assert (
        "best.yaml the best trial as a complete config that train.py takes as it is; not there yet"
        in words
    )


def test_not_a_number_is_no_value(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    summary["trials"][1] |= {"value": math.nan, "final_value": math.inf}
    summary["importance"]["MDI"] = {"learning_rate": math.nan}
    write_summary(tmp_path, summary)
    text = build(tmp_path)
    assert "nan" not in prose(text).lower().split()
    assert len(figures(text)["importance"]["data"]) == 1


def test_torn_and_damaged_files_are_told(sweep: Sweep) -> None:
    out, _ = sweep
    metrics = out / "trials/0000/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    prompt = out / "trials/0001/samples/5e1f0a"
    (prompt / "step_000180.json").write_text('{"text": "half')
    (out / "trials/0000/samples/5e1f0a/step_000180.wav").unlink()
    (out / "baseline/samples/9b22c4/step_000000.wav").write_bytes(b"RIFF nothing")
    words = prose(build(out))
    assert "trials/0000/metrics.jsonl: 1 torn line left out" in words
    assert (
        "trials/0001/samples/5e1f0a/step_000180.json: not readable as the facts of a recording"
        in words
    )
    assert "trials/0000/samples/5e1f0a/step_000180.wav: the recording is missing" in words
    assert "baseline/samples/9b22c4/step_000000.wav: not readable as audio" in words
    assert "1 recording is not in this file" in words


def test_missing_run_folders_leave_the_table(sweep: Sweep) -> None:
    out, summary = sweep
    for trial in summary["trials"]:
        (out / trial["dir"]).rename(out / f"gone{trial['number']}")
    text = build(out)
    assert "curves" not in figures(text)
    assert "No validations are written yet" in prose(text)
    assert len(re.findall('<th scope="row" data-value', text)) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the folder that sweep.py wrote"),
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"study": "s"}', "state: Field required"),
        (
            (
                '{"study": "s", "state": "finished", "trials": [{"number": 0, "state": "completed",'
                ' "dir": "../../secret"}]}'
            ),
            "lies outside",
        ),
        (
            (
                '{"study": "s", "state": "finished", "trials": [{"number": 0, "state": "pruned",'
                ' "dir": "t"}]}'
            ),
            "trials.0.state",
        ),
    ],
)
def test_a_folder_that_is_no_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ReportError, match=re.escape(message)):
        build_report(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_command_line(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep[0])]) == 0
    assert "report.html (" in capsys.readouterr().out


def test_old_page_stays_whole_if_writing_fails(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = sweep
    (out / "report.html").write_text("old")

    def full_disk(_fd: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("csm_ft.atomic.os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        build_report(out)
    assert (out / "report.html").read_text() == "old"
    assert list(out.glob(".report*")) == []


def test_same_folder_same_page(sweep: Sweep) -> None:
    assert build(sweep[0]) == build(sweep[0])


def test_what_does_not_fit_is_linked_the_important_first(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = sweep
    linked_only = len(build(out)) - sum(
        len(s) for s in re.findall(r'src="(data:audio[^"]*)"', build(out))
    )
    monkeypatch.setattr(page, "PAGE_BYTES", linked_only + 260_000)
    text = build(out)
    assert len(text.encode()) <= page.PAGE_BYTES
    links = re.findall(r'src="((?:trials|baseline)[^"]*)"', text)
    assert links
    assert all((out / link).is_file() for link in links)
    assert f"{len(links)} recordings are not in this file" in prose(text)
    before_menu = re.sub(r"<template.*?</template>", "", text, flags=re.DOTALL)
    assert not re.findall(r'src="(?:trials|baseline)', before_menu)


def test_each_model_is_heard_nearest_its_best_validation(sweep: Sweep) -> None:
    out, summary = sweep
    best = summary["trials"][summary["best"]]
    best["best_examples"] = 700
    write_summary(out, summary)
    notes: list[str] = []
    read = data.read_summary(out)
    runs = {t.number: data.read_run(out / t.dir, notes) for t in read.trials}
    rows = listen.arrange(out, read, data.read_run(out / "baseline", notes), runs).rows
    assert [row.text for row in rows] == [
        "The birch canoe slid on the smooth planks.",
        "Glue the sheet to the dark blue background.",
    ]
    assert [list(row.players) for row in rows] == [["reference", "base", "default", "best"]] * 2
    assert rows[0].players["best"].take.step == 90
    assert rows[0].players["best"].href == f"{best['dir']}/samples/5e1f0a/step_000090.wav"
    assert notes == []


@pytest.mark.parametrize(
    ("examples", "step"), [(None, 180), (10, 90), (700, 90), (1100, 180), (9000, 180)]
)
def test_the_untrained_recording_of_a_trial_stands_for_nobody(
    examples: float | None, step: int
) -> None:
    takes = [data.Take(Path("a"), "x", step=s, examples=8.0 * s) for s in (0, 90, 180)]
    run = data.Run([], [], {"p": takes, "q": takes[:1]}, [])
    chosen = run.at("p", examples)
    assert chosen is not None
    assert chosen.step == step
    assert run.at("q", examples) == takes[0]
    assert run.at("unknown", examples) is None


def test_odd_names_of_folders_are_quoted_in_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sweep(tmp_path, num_trials=1, sentences={"50% #1": ("x y z", "")})
    monkeypatch.setattr(page, "PAGE_BYTES", 0)
    assert 'src="trials/0000/samples/50%25%20%231/step_000180.wav"' in build(tmp_path)


def test_wide_parameters_get_a_log_axis_and_words_their_order(tmp_path: Path) -> None:
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


def test_sentences_keep_the_order_they_were_spoken_in(tmp_path: Path) -> None:
    sentences = {"ff": ("zebra", ""), "aa": ("middle", ""), "cc": ("apple", "")}
    make_sweep(tmp_path, num_trials=1, sentences=sentences)
    assert re.findall(r"<q>(.*?)</q>", build(tmp_path)) == ["zebra", "middle", "apple"]


def test_real_clips_of_other_sentences_have_their_own_row(sweep: Sweep) -> None:
    out, _ = sweep
    for path in (out / "baseline/samples/reference").glob("*.json"):
        path.write_text(
            json.dumps({"text": "Another sentence.", "clip_id": path.stem, "seconds": 1.0})
        )
    assert (
        "Real clips through the codec as good as any model can sound here “Another sentence.”"
        in prose(build(out))
    )


def test_failed_trials_have_no_value_in_curves(tmp_path: Path) -> None:
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
def test_best_so_far_counts_completed_trials_only(rows: list[tuple[Any, float | None]]) -> None:
    trials = [data.Trial(number=i, state=s, value=v, dir="t") for i, (s, v) in enumerate(rows)]
    figure = charts.history(data.Summary(study="s", state="running", trials=trials))
    if figure is None:
        assert all(v is None and s != "diverged" for s, v in rows)
        return
    line = next(t for t in figure["data"] if t["name"] == "best so far")
    expected = accumulate(
        (v if s == "completed" and v is not None else math.inf for s, v in rows), min
    )
    assert line["y"] == [value for value in expected if value < math.inf]


@given(st.integers(1, 1000), st.integers(0, 999))
def test_thinned_curves_keep_their_ends_and_lowest_point(length: int, lowest: int) -> None:
    points = [data.Validation(i, 0.0 if i == lowest else 1.0 + i) for i in range(length)]
    thin = charts._thin(points)
    assert len(thin) <= charts.MAX_POINTS + 1
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert min(p.value for p in thin) == min(p.value for p in points)
    assert thin == sorted(thin, key=lambda p: p.examples)


@given(st.binary(max_size=200))
def test_any_metrics_file_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_bytes(content)
    assert all(math.isfinite(v.value) for v in data.read_run(folder, []).validations)


@given(st.integers(0, 2000))
def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    rows = [
        json.dumps({"kind": "val", "step": i, "examples": i * 8, "val_loss": 5.0 - i / 100})
        for i in range(1, 30)
    ]
    (folder / "metrics.jsonl").write_bytes("\n".join(rows).encode()[:cut])
    whole = [row for i, row in enumerate(rows) if len("\n".join(rows[: i + 1])) <= cut]
    assert [v.value for v in data.read_run(folder, []).validations] == [
        json.loads(row)["val_loss"] for row in whole
    ]


def test_untrained_validation_is_not_on_the_curve(tmp_path: Path) -> None:
    make_run(
        tmp_path / "run",
        {},
        curve=[(80, 6.0), (160, 5.0)],
        last_step=20,
        quality=1.0,
        rng=np.random.default_rng(0),
    )
    assert data.read_run(tmp_path / "run", []).validations == [
        data.Validation(80, 6.0),
        data.Validation(160, 5.0),
    ]


@pytest.mark.parametrize(
    ("rate_hz", "kind"), [(24000, "audio/mpeg"), (16000, "audio/mpeg"), (24001, "audio/wav")]
)
def test_recordings_survive_compression(tmp_path: Path, rate_hz: int, kind: str) -> None:
    wave = speech(2.0, 1.0, np.random.default_rng(0))
    soundfile.write(tmp_path / "a.wav", wave, rate_hz)
    loaded = sound.load(tmp_path / "a.wav")
    head, body = loaded.uri.split(",")
    assert head == f"data:{kind};base64"
    (tmp_path / "b").write_bytes(base64.b64decode(body))
    back, back_hz = soundfile.read(tmp_path / "b")
    assert back_hz == rate_hz
    assert loaded.seconds == pytest.approx(len(wave) / rate_hz)
    assert len(back) / rate_hz == pytest.approx(loaded.seconds, abs=0.15)
    spectra = [np.abs(np.fft.rfft(w, 65536))[:8000] for w in (wave, back)]
    assert np.corrcoef(*spectra)[0, 1] > 0.98
    if kind == "audio/mpeg":
        assert len(base64.b64decode(body)) < 8_500 * loaded.seconds


@given(st.lists(st.floats(-1, 1, width=32), max_size=400))
def test_outline_is_the_peak_of_each_part(values: list[float]) -> None:
    wave = np.array(values, dtype=np.float32)
    heights = [float(bar) for bar in re.findall(r"V([\d.]+)", sound._outline(wave))]
    peaks = [
        max((abs(float(x)) for x in part), default=0.0)
        for part in np.array_split(wave, sound.NUM_BARS)
    ]
    top = max([*peaks, 0.05])
    assert heights == pytest.approx([max(0.04, p / top) for p in peaks], abs=0.0051)


def test_an_empty_recording_is_no_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), SAMPLE_RATE_HZ)
    assert sound.load(tmp_path / "a.wav").seconds == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.4, "0 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert page._duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (True, "true"),
        (3e-5, "3e-05"),
        (0.123456, "0.1235"),
        (1440.0, "1,440"),
        ("5%", "5%"),
    ],
)
def test_parameters_are_short(value: Any, words: str) -> None:
    assert templating.short(value) == words


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T10:00:00+00:00",
        "2026-03-01T10:00:00",
        "2026-03-01T12:00:00+02:00",
        "1772359200.0",
    ],
)
def test_moments(text: str) -> None:
    moment = page._moment(text)
    assert moment is not None
    assert moment.isoformat() == "2026-03-01T10:00:00+00:00"
    assert page._moment("yesterday") is None


def test_report_needs_no_torch() -> None:
    code = "import sys, csm_ft.report; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_context_is_told_at_the_sentence(sweep: Sweep) -> None:
    out, _ = sweep
    for facts in out.glob("**/samples/5e1f0a/*.json"):
        turns = [
            {"speaker": "ben", "text": "<b>Well?</b>", "path": "a.wav"},
            {"speaker": "", "text": "Hm."},
        ]
        facts.write_text(
            json.dumps({**json.loads(facts.read_text()), "context": turns, "turns_left_out": 1})
        )
    text = build_report(out).read_text()
    assert text.count("after 2 turns of context") == 1
    assert (
        '<ol class="hint" start="1"><li>ben: &lt;b&gt;Well?&lt;/b&gt;</li><li>Hm.</li></ol>' in text
    )
    assert "without the oldest 1 of 2 turns: no room" in text
