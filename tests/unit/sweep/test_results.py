"""What a sweep leaves behind, with 0, 1 and more completed trials."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from csm_ft.cli import parse_args
from csm_ft.families.csm.config import CsmConfig
from csm_ft.report import build_report
from csm_ft.sweep.config import parse
from csm_ft.sweep.results import Results
from csm_ft.sweep.slots import Machine, Slot
from csm_ft.sweep.space import read_space
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import Configs, DataFacts, agreement, rungs_of
from tests.helpers import fake_trainer

SPACE = (
    "learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}\nbatch_size: {type: categorical,"
    " values: [8, 16]}\n"
)


class Desk:
    """A study with everything around it but the workers."""

    def __init__(self, out: Path) -> None:
        (out.parent / "space.yaml").write_text(SPACE)
        request = parse(
            [
                "--n_trials",
                "6",
                "--n_epochs",
                "3",
                "--output_dir",
                str(out),
                "--wandb",
                "off",
                "--study_name",
                "süß\n#",
            ]
        )
        data = DataFacts(fake_trainer.NUM_CLIPS, "f")
        space = read_space(
            out.parent / "space.yaml", request, num_train_examples=data.num_train_examples
        )
        rungs = rungs_of(request.sweep, space.base, data)
        self.out = out
        self.study = SweepStudy.open(
            out,
            request.sweep,
            space,
            rungs,
            agreement(request.sweep, space.base, space.describe(), data),
        )
        self.study.set_baseline(3.5)
        self.configs = Configs(out, request.sweep, space.base, "cpu", 1)
        self.results = Results(self.study, self.configs, Machine("cpu", [Slot("cpu0", {})], 1))

    def run(self, state: Any = "completed") -> int:
        number = self.study.ask()
        self.study.begin_attempt(number, "cpu0")
        result = fake_trainer.run(
            self.configs.trial(number, self.study.params(number), threads=1),
            self.Reporter(self.study, number),
        )
        if state == "completed":
            self.study.finish(
                number, "completed", best=result.best, final_value=result.final_val_loss
            )
        else:
            self.study.finish(number, state, reason="=why")
        return number

    class Reporter:
        def __init__(self, study: SweepStudy, number: int) -> None:
            self.study, self.number = study, number

        def progress(self, step: int, examples: int) -> None: ...

        def validated(self, examples: int, metrics: dict[str, float]) -> bool:
            self.study.validated(self.number, examples, metrics["val_loss"])
            return True

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "summary.json").read_text())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "out")
    yield desk
    desk.study.close()


def test_nothing_completed(desk: Desk) -> None:
    desk.results.write("running")
    desk.run("diverged")
    assert desk.results.write("unfinished") is None
    assert (desk.out / "best.yaml").read_text().startswith("# UNFINISHED: no trial of study")
    parse_args(
        CsmConfig, ["--config", str(desk.out / "best.yaml")], program="train.py", description=""
    )
    assert not (desk.out / "best").exists()
    summary = desk.summary()
    assert (summary["best"], summary["verdict"], summary["baseline"]) == (
        None,
        None,
        {"value": 3.5, "dir": "baseline"},
    )
    assert [t["state"] for t in summary["trials"]] == ["diverged"] + ["waiting"] * 5
    assert build_report(desk.out).is_file()


def test_the_best_config_is_the_best_trials(desk: Desk) -> None:
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
    there = yaml.safe_load((desk.configs.folder(best) / "config.yaml").read_text())
    assert config.model_dump(mode="json") == there | {
        "output_dir": "auto",
        "wandb_group": "",
        "wandb_name": "",
    }
    again = fake_trainer.run(config.replace(output_dir=str(desk.out.parent / "again")))
    assert again.best is not None
    assert again.best["val_loss"] == values[best]
    weights = desk.configs.folder(best) / "checkpoints" / "best" / "model.safetensors"
    assert (desk.out / "best" / "model.safetensors").samefile(weights)
    assert build_report(desk.out).is_file()


def test_only_the_best_few_keep_their_weights_and_clips_outlive_them(desk: Desk) -> None:
    for _ in range(6):
        desk.run()
        desk.results.write("running")
    ranked = sorted(desk.study.records(), key=lambda r: r.value or 0.0)
    for place, record in enumerate(ranked):
        folder = desk.configs.folder(record.number)
        assert (folder / "checkpoints").exists() == (place < 3)
        assert (folder / "val_clips.json").is_file()
        assert (folder / "metrics.jsonl").is_file()


def test_best_weights_survive_a_kill_in_the_middle_of_their_exchange(desk: Desk) -> None:
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


def test_the_table(desk: Desk) -> None:
    desk.run()
    desk.run("poison")
    desk.results.write("finished")
    with (desk.out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["completed", "poison"]
    assert float(rows[0]["params.learning_rate"]) == 3e-5
    assert rows[1]["reason"] == "'=why"  # text that a spreadsheet would take for a formula
    assert rows[1]["value"] == ""


def test_a_summary_says_what_the_report_needs(desk: Desk) -> None:
    for _ in range(5):
        desk.run()
    verdict = desk.results.write("finished")
    summary = desk.summary()
    assert summary["horizon_examples"] == 3 * fake_trainer.NUM_CLIPS
    assert summary["rungs"] == [16, 48, 144]
    assert summary["trials"][0]["is_default"]
    assert summary["trials"][1]["dir"] == "trials/0001"
    assert verdict is not None
    assert summary["verdict"]["text"] == verdict.text
    assert summary["verdict"]["standard_error"] > 0
    assert set(summary["importance"]) == {"PED-ANOVA", "MDI"}
