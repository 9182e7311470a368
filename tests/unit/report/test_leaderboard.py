"""Who leads, by how much more than noise, and what differs from the default."""

import json
from pathlib import Path

import pytest

from csm_ft.report.data import read_summary
from csm_ft.report.leaderboard import MOST_PLACES, Leaderboard, changes_of, make_leaderboard
from csm_ft.runs.folder import SweepFolder
from tests.helpers.sweep_folder import make_sweep, write_summary
from tests.unit.report.reading import build, prose


def board(out: Path) -> Leaderboard:
    folder = SweepFolder(out)
    made = make_leaderboard(read_summary(folder), folder)
    assert made is not None
    return made


def write_clips(out: Path, number: int, losses: list[float]) -> None:
    clips = {str(i): [loss * 10, 10] for i, loss in enumerate(losses)}
    (out / f"trials/{number:04d}/val_clips.json").write_text(json.dumps(clips))


def test_ties_are_by_the_noise_of_data(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=10, samples=False)
    ranked = [place.trial.number for place in board(tmp_path).places]
    best, second, third = ranked[:3]
    spread = [0.0, 1.0, 2.0, 3.0]
    write_clips(tmp_path, best, spread)
    write_clips(
        tmp_path, second, [x + d for x, d in zip(spread, (0.9, -0.7, 0.8, -0.6), strict=True)]
    )
    write_clips(tmp_path, third, [x + 0.2 for x in spread])
    places = {place.trial.number: place for place in board(tmp_path).places}
    assert not places[best].is_tie
    assert places[second].is_tie
    assert places[second].at_percent < places[second].noise_percent <= 100
    assert not places[third].is_tie
    words = prose(build(tmp_path))
    assert f"Trial {second} default tie" in words or f"Trial {second} tie" in words
    assert "A dot in its band is a tie" in words


def test_ties_are_by_the_noise_of_seeds(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=4, samples=False)
    default = summary["trials"][0]
    summary["trials"] += [
        {
            **default,
            "number": 4 + i,
            "value": default["value"] + d,
            "purpose": "noise",
            "seed": i,
            "is_default": False,
        }
        for i, d in enumerate((-0.05, 0.05))
    ]
    write_summary(tmp_path, summary)
    made = board(tmp_path)
    assert made.num_completed == 3  # runs of other seeds are not contenders
    # Student's 97.5 % quantile with 2 degrees of freedom, times sd 0.05, times sqrt 2.
    assert made.places[1].noise == pytest.approx(4.3027 * 0.05 * 2**0.5, rel=1e-3)


def test_without_noise_no_tie_is_claimed(tmp_path: Path) -> None:
    make_sweep(tmp_path, samples=False)
    made = board(tmp_path)
    assert not made.knows_noise
    assert not any(place.is_tie for place in made.places)
    assert "--confirm 3x2 measures it" in prose(build(tmp_path))


def test_default_stays_on_a_board_that_is_full(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=30, samples=False)
    completed = [t for t in summary["trials"] if t["state"] == "completed"]
    assert len(completed) > MOST_PLACES
    summary["trials"][0]["value"] = 99.0
    write_summary(tmp_path, summary)
    made = board(tmp_path)
    assert len(made.places) == MOST_PLACES + 1
    assert made.places[-1].trial.is_default
    assert made.places[-1].rank == made.num_completed
    assert made.places[-1].at_percent == 100


def test_changes_are_what_the_default_has_otherwise(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=2, samples=False)
    read = read_summary(SweepFolder(tmp_path))
    default, other = read.trials
    changes = changes_of(read, other)
    assert {c.name for c in changes} == {
        name for name in default.params if default.params[name] != other.params[name]
    }
    assert all(
        (c.default, c.own) == (default.params[c.name], other.params[c.name]) for c in changes
    )
    assert changes_of(read, default) == []
    assert f"learning_rate 3e-05 {other.params['learning_rate']:.4g}" in prose(build(tmp_path))


def test_one_trial_leads_nobody(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=1, samples=False)
    folder = SweepFolder(tmp_path)
    assert make_leaderboard(read_summary(folder), folder) is None


def test_failures_show_the_end_of_their_log(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=5, samples=False)
    log = "".join(f"step {i}\n" for i in range(4000)) + "\x1b[31m<b>loss is not finite</b>\x1b[0m\n"
    (tmp_path / "trials/0004/log.txt").write_text(log)
    text = build(tmp_path)
    assert "Trial 4 diverged loss is not finite at step 34" in prose(text)
    assert "&lt;b&gt;loss is not finite&lt;/b&gt;</code></pre>" in text
    assert "step 3999" in text
    assert "step 3900" not in text
    assert "\x1b" not in text
