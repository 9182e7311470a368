"""Who competes in blind comparisons, with which recordings, and how votes get into the page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csm_ft.errors import ConfigError
from csm_ft.report import listen, sound
from csm_ft.report.__main__ import main
from csm_ft.report.blind import MOST_CONTENDERS
from csm_ft.report.data import read_run, read_summary
from csm_ft.report.page import build_report
from csm_ft.runs.folder import SweepFolder
from tests.helpers.sweep_folder import make_sweep, speech, write_take
from tests.helpers.voting import ballot, make_vote
from tests.unit.report.reading import Sweep, build, prose


def contest(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="contest">(.*?)</script>', text)
    assert found
    return json.loads(found[1])


def save_votes(out: Path, path: Path, votes: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(ballot(read_summary(SweepFolder(out)), votes)))
    return path


def test_contenders_are_base_default_and_the_best(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=16, sentences={"aa": ("a b", ""), "bb": ("c d", "")})
    text = build(tmp_path)
    found = contest(text)
    keys = [one["key"] for one in found["contenders"]]
    assert len(keys) == MOST_CONTENDERS
    assert {"base", 0, summary["best"]} <= set(keys)
    assert keys[0] == summary["best"]  # best first, the base model last
    assert keys[-1] == "base"
    failed = [t["number"] for t in summary["trials"] if t["state"] in ("diverged", "poison")]
    assert not set(failed) & set(keys)
    for prompt in found["prompts"]:
        assert set(prompt["takes"]) == {str(key) for key in keys}
        for take in prompt["takes"]:
            assert text.count(f'data-take="{prompt["id"]}/{take}"') == 1


def test_text_answers_are_not_voted_on(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=4, text_only=True)
    text = build(tmp_path)
    assert 'id="contest"' not in text
    assert "blind-open" not in prose(text)


def test_votes_files_are_merged_and_shown(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = sweep
    ours = save_votes(out, tmp_path / "ours.json", [make_vote(i, 1, 0) for i in range(9)])
    theirs = save_votes(
        out, tmp_path / "theirs.json", [make_vote(8, 1, 0), make_vote(9, "base", 0, "right")]
    )
    assert main([str(out), "--votes", str(ours), "--votes", str(theirs)]) == 0
    said = capsys.readouterr().out
    assert "10 of 11 votes are new" in said
    assert "10 blind votes by 2 listeners prefer trial 1" in said
    text = build(out)
    words = prose(text)
    assert "10 blind votes by 2 listeners prefer trial 1" in words
    assert "The base model has −" in words
    assert "preference" in re.findall(r"<thead>.*?</thead>", text, re.DOTALL)[-1]
    assert len(contest(text)["votes"]) == 10
    assert contest(text)["contenders"][0]["key"] == 1


def test_bad_votes_add_nothing(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = sweep
    good = save_votes(out, tmp_path / "good.json", [make_vote(1, 1, 0)])
    bad = save_votes(out, tmp_path / "bad.json", [make_vote(2, 1, 77)])
    assert main([str(out), "--votes", str(good), "--votes", str(bad)]) == 2
    assert "bad.json: vote 1: trial 77 is not in the study" in capsys.readouterr().err
    assert not (out / "votes.json").exists()
    (out / "votes.json").write_text("{torn")
    assert "votes.json: the file: Invalid JSON" in prose(build_report(out).read_text())


def test_a_run_takes_no_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(tmp_path, num_trials=1)
    run = tmp_path / "trials/0000"
    (run / "config.yaml").write_text("family: csm\n")
    assert main([str(run), "--votes", "votes.json"]) == 2
    assert "is the folder of one run" in capsys.readouterr().err
    assert issubclass(ConfigError, ValueError)


def test_recordings_of_a_prompt_are_equally_loud(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=2, sentences={"aa": ("one two three four", "")})
    rng = np.random.default_rng(0)
    gains = {"trials/0000": 0.5, "trials/0001": 0.25, "baseline": 0.01}
    for folder, gain in gains.items():
        for step in (90, 180) if "trials" in folder else (0,):
            wave = gain * speech(2.0, 1.0, rng)
            facts = {"text": "one two three four", "step": step, "examples": step * 8}
            write_take(tmp_path / folder / "samples/aa" / f"step_{step:06d}", wave, facts)
    notes: list[str] = []
    summary = read_summary(SweepFolder(tmp_path))
    runs = {t.number: read_run(tmp_path / t.dir, notes) for t in summary.trials}
    base = read_run(tmp_path / "baseline", notes)
    listening = listen.arrange(tmp_path, summary, base, runs)
    listen.match_levels(listening, notes)
    heard = {
        contender: 20 * np.log10(player.gain) + player.look.level_dbfs
        for contender, player in listening.rows[0].contenders.items()
        if player.look and player.look.level_dbfs is not None
    }
    assert heard[0] == pytest.approx(heard[1], abs=1e-6)
    assert heard["base"] < heard[0] - 6  # near-silence does not silence the others
    assert all(player.gain <= 1 for player in listening.rows[0].contenders.values())
    assert notes == []


def test_gain_is_in_the_recording(tmp_path: Path) -> None:
    write_take(tmp_path / "a", speech(1.0, 1.0, np.random.default_rng(0)), {"text": "x"})
    loud, quiet = (sound.load(tmp_path / "a.wav", gain) for gain in (1.0, 0.1))
    assert loud.uri != quiet.uri
    assert sound.look(tmp_path / "a.wav") is sound.look(tmp_path / "a.wav")


def test_silence_has_no_level(tmp_path: Path) -> None:
    write_take(tmp_path / "a", np.zeros(2400, np.float32), {"text": "x"})
    assert sound.look(tmp_path / "a.wav").level_dbfs is None


def test_menu_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path, num_trials=10)
    monkeypatch.setattr(listen, "_MOST_OTHERS", 4)  # of two prompts
    text = build(tmp_path)
    assert len(set(re.findall(r'data-option="(t\d+)"', text))) == 2
    assert "The 4 trials behind those of the menu have their samples in their folders" in prose(
        text
    )
