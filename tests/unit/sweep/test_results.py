"""What a sweep leaves behind, with 0, 1 and more completed trials."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from optuna.trial import FrozenTrial

from csm_ft.cli import parse_args
from csm_ft.families.csm.config import CsmConfig
from csm_ft.report.page import build_report
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.records import TrialRecord
from csm_ft.sweep.request import parse
from csm_ft.sweep.results import Results
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.slots import LocalMachine
from csm_ft.sweep.space import make_space
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import Configs, DataFacts, objective_of, plan_study
from csm_ft.sweep.worker_process import Slot
from tests.helpers import fake_trainer

SPACE = (
    "learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}\nbatch_size: {type: categorical,"
    " values: [8, 16]}\n"
)


# The keys of a trial in summary.json that other programs rely on.
KEYS = (
    "number state reason value final_value best_examples best_epoch params attempts seconds slot"
    " dir is_default"
).split()


class Desk:
    """A study with everything around it but the workers."""

    def __init__(self, out: Path) -> None:
        (out.parent / "space.yaml").write_text(SPACE)
        argv = ["--n_trials", "6", "--n_epochs", "3", "--output_dir", str(out), "--wandb", "off"]
        request = parse([*argv, "--study_name", "süß\n#"])
        data = DataFacts(fake_trainer.NUM_CLIPS, "f")
        space = make_space(read_rows(out.parent / "space.yaml", request), data.num_train_examples)
        self.out, folder = out, SweepFolder(out)
        self.study = SweepStudy.open(folder, plan_study(request.sweep, space, data))
        self.study.set_baseline({"val_loss": 3.5, "val_c0": 1.4})
        machine = LocalMachine("cpu", [Slot("cpu0", {})], 1)
        self.configs = Configs(folder, request.sweep, space.base, machine)
        self.results = Results(self.study, self.configs, objective_of(space.base))

    def run(self, state: Any = "completed") -> int:
        number = self.study.ask()
        self.study.begin_attempt(number, "cpu0")
        result = fake_trainer.run(
            self.configs.trial(number, self.study.params(number), threads=1),
            self.Reporter(self.study, number),
        )
        if state == "completed":
            self.study.finish(
                number, "completed", best=result.best, final_value=result.metrics["val_loss"]
            )
        else:
            self.study.finish(number, state, reason="=why")
        return number

    class Reporter:
        def __init__(self, study: SweepStudy, number: int) -> None:
            self.study, self.number = study, number

        def alive(self, doing: Any = None) -> None: ...

        def progress(self, step: int, examples: int) -> None: ...

        def validated(self, examples: int, metrics: dict[str, float]) -> bool:
            self.study.validated(self.number, examples, metrics)
            return True

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "summary.json").read_text())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "out")
    yield desk
    desk.study.close()


def test_no_trial_completed(desk: Desk) -> None:
    desk.results.write("running")
    desk.run("diverged")
    assert desk.results.write("unfinished").verdict is None
    assert (desk.out / "best.yaml").read_text().startswith("# UNFINISHED: no trial of study")
    parse_args(
        CsmConfig, ["--config", str(desk.out / "best.yaml")], program="train.py", description=""
    )
    assert not (desk.out / "best").exists()
    summary = desk.summary()
    assert (summary["best"], summary["verdict"], summary["baseline"]) == (
        None,
        None,
        {"value": 3.5, "dir": "baseline", "metrics": {"val_loss": 3.5, "val_c0": 1.4}},
    )
    assert [t["state"] for t in summary["trials"]] == ["diverged"] + ["waiting"] * 5
    assert build_report(desk.out).is_file()


def test_best_config_is_best_trials(desk: Desk) -> None:
    for _ in range(4):
        desk.run()
        desk.results.write("running")
    desk.results.write("finished")
    values = [r.value for r in desk.study.records()]
    best = values.index(min(v for v in values if v is not None))
    text = (desk.out / "best.yaml").read_text()
    assert f"trial {best}: val_loss {values[best]!r}" in text.splitlines()[0]
    assert "bit for bit on the same machine with the same threads" in text.splitlines()[1]
    config = parse_args(
        CsmConfig, ["--config", str(desk.out / "best.yaml")], program="train.py", description=""
    )
    there = yaml.safe_load((desk.configs.folder.trial(best).config).read_text())
    assert config.model_dump(mode="json") == there | {
        "output_dir": "auto",
        "wandb_group": "",
        "wandb_name": "",
    }
    again = fake_trainer.run(config.replace(output_dir=str(desk.out.parent / "again")))
    assert again.best is not None
    assert again.best["val_loss"] == values[best]
    weights = desk.configs.folder.trial(best).best / "model.safetensors"
    assert (desk.out / "best" / "model.safetensors").samefile(weights)
    assert build_report(desk.out).is_file()


def test_clips_outlive_dropped_weights(desk: Desk) -> None:
    for _ in range(6):
        desk.run()
        desk.results.write("running")
    ranked = sorted(desk.study.records(), key=lambda r: r.value or 0.0)
    for place, record in enumerate(ranked):
        run = desk.configs.folder.trial(record.number)
        folder = run.path
        assert run.best.exists() == (place < 3 or record.is_default)
        assert (folder / "val_clips.json").is_file()
        assert (folder / "metrics.jsonl").is_file()


def test_the_default_keeps_its_weights_without_the_optimiser(desk: Desk) -> None:
    desk.run()
    default = desk.configs.folder.trial(0)
    state = default.checkpoints / "step_000001"
    state.mkdir()
    while desk.study.records()[0] in sorted(desk.study.records(), key=lambda r: r.value or 0.0)[:3]:
        desk.results.write("running")
        assert state.is_dir()
        desk.run()
    desk.results.write("running")
    assert default.best.is_dir()
    assert not state.exists()


def test_best_weights_survive_a_kill(desk: Desk) -> None:
    desk.run()
    desk.results.write("running")
    (desk.out / "best").rename(desk.out / ".best.old")
    (desk.out / ".best.draft").mkdir()
    desk.results.write("running")
    assert sorted(p.name for p in (desk.out / "best").iterdir()) == [
        "model.safetensors",
        "state.json",
        "val_clips.json",
    ]
    assert not list(desk.out.glob(".best*"))


def test_table_reads_with_pandas(desk: Desk) -> None:
    desk.run()
    desk.run("poison")
    desk.results.write("finished")
    table = pd.read_csv(desk.out / "trials.csv")
    assert list(table["state"]) == ["completed", "poison"]
    assert table["params.learning_rate"][0] == 3e-5
    assert table["reason"][1] == "'=why"  # text that a spreadsheet would take for a formula
    assert pd.isna(table["value"][1])
    summary = desk.summary()
    for name, value in summary["trials"][0]["metrics"].items():
        assert table[f"metrics.{name}"][0] == pytest.approx(value)
    assert pd.isna(table["metrics.val_c0"][1])
    lines = (desk.out / "trials.csv").read_text().splitlines()
    assert lines[0].startswith(
        "number,state,reason,value,final_value,best_examples,best_audio_sec,best_epoch,attempts,"
        "seconds,slot,dir,is_default,purpose,seed,violated,params.learning_rate,params.batch_size,"
        "metrics.val_loss"
    )
    assert ",144," in lines[1], "whole numbers stay whole"


def test_empty_table_has_its_header(desk: Desk) -> None:
    desk.results.write("running")
    assert (desk.out / "trials.csv").read_text().startswith("number,state,reason,value")


def test_summary_has_what_page_needs(desk: Desk) -> None:
    for _ in range(5):
        desk.run()
    verdict = desk.results.write("finished").verdict
    summary = desk.summary()
    assert summary["horizon_examples"] == 3 * fake_trainer.NUM_CLIPS
    assert summary["rungs"] == [16, 48, 144]
    assert summary["trials"][0]["is_default"]
    assert summary["unit"] == "nats per frame"
    assert summary["objective"] == "lowest validation loss (nats per frame) from the first rung on"
    assert summary["objective_metric"] == "val_loss"
    assert set(summary["trials"][0]["metrics"]) == {"val_loss", "val_c0", "val_depth", "val_error"}
    assert set(KEYS) <= set(summary["trials"][0])
    assert summary["trials"][1]["dir"] == "trials/0001"
    assert verdict is not None
    assert summary["verdict"]["text"] == verdict.text
    assert summary["verdict"]["standard_error"] > 0
    assert set(summary["importance"]) == {"PED-ANOVA", "MDI"}


def test_ended_trials_are_read_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the cost of each trial grows with the number of trials before it."""
    read: list[int] = []
    make = SweepStudy._record

    def counted(study: SweepStudy, frozen: FrozenTrial) -> TrialRecord:
        read.append(frozen.number)
        return make(study, frozen)

    monkeypatch.setattr(SweepStudy, "_record", counted)
    for _ in range(4):
        desk.run()
        desk.results.write("running")
    assert max(Counter(read).values()) <= 2  # while it ran, and ended
    assert [record.state for record in desk.study.records()] == ["completed"] * 4


def test_importance_is_measured_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that finds all trials done need not import what measures it."""
    for _ in range(4):
        desk.run()
    first = desk.results.write("finished")
    again = Results(desk.study, desk.configs, objective_of(desk.configs.base))
    again.write("running")
    monkeypatch.setattr(SweepStudy, "importance", lambda _: pytest.fail("it is measured again"))
    found = again.write("finished")
    assert first.importance
    assert (found.importance, found.importance_of) == (first.importance, first.importance_of)
