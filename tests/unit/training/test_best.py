"""A run that validates on a share of the frames measures its best weights on all at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from csm_ft.data.token_file import write_store
from csm_ft.evaluate.metrics import ERROR, ESTIMATE
from csm_ft.evaluate.validation import validate
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.runs.checkpoint import save_weights
from csm_ft.runs.folder import RunFolder
from csm_ft.sweep.verdict import read_clips
from tests.helpers.splits import INFO, SIZE, examples_of, make_model, make_split

SPLIT = make_split([12, 5, 30, 1, 17, 9, 22, 3])


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    base, data = tmp_path / "base", tmp_path / "tokens.hdf5"
    base.mkdir()
    save_weights(base, make_model(seed=1), SIZE.to_json())
    write_store(data, INFO, {"train": SPLIT, "val": SPLIT})
    return {
        "data": str(data),
        "output_dir": str(tmp_path / "run"),
        "model_name_or_checkpoint_path": str(base),
        "max_steps": 4,
        "val_every": "2",
        "learning_rate": 1e-3,
        "batch_size": 4,
        "gen_every": "0",
        "wandb": "off",
        "device": "cpu",
        "threads": 1,
        "val_depth_fraction": 0.25,
    }


def run(options: dict[str, Any], **changes: Any) -> train.RunResult:
    return train.run(CsmConfig.model_validate({**options, **changes}))


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "lora", "lora_rank": 2}, {"optimizer": "schedulefree"}],
    ids=["full", "lora", "schedulefree"],
)
def test_the_best_is_measured_on_all_frames(
    options: dict[str, Any], changes: dict[str, Any]
) -> None:
    result, folder = run(options, **changes), RunFolder(Path(options["output_dir"]))
    estimates = {row["step"]: row["val_loss"] for row in folder.rows("val")}
    assert list(estimates) == [0, 2, 4]
    assert result.best is not None
    assert result.best[ESTIMATE] == estimates[result.best["step"]]
    config = CsmConfig.model_validate(options)
    weights = CsmFamily().load_model(str(folder.best))
    whole = validate(weights, CsmFamily(), examples_of(SPLIT), config, all_targets=True)
    assert result.best["val_loss"] == pytest.approx(whole.loss, rel=1e-6)
    assert result.best["val_loss"] != result.best[ESTIMATE]
    assert abs(result.best["val_loss"] - result.best[ESTIMATE]) < 5 * result.best[ERROR]
    clips = read_clips(folder.best_val_clips)
    assert clips is not None
    assert clips.keys() == whole.clips.keys()
    assert all(own == pytest.approx(whole.clips[name]) for name, own in clips.items())
    (row,) = folder.rows("best")
    assert row["val_loss"] == result.best["val_loss"]


def test_it_is_measured_once(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(options)
    monkeypatch.setattr("csm_ft.training.best.validate", None)
    assert run(options) == first, "the same command again: nothing is computed"
    assert len(RunFolder(Path(options["output_dir"])).rows("best")) == 1


def test_the_end_is_resumed_if_a_kill_came_before_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("csm_ft.training.best.validate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(options)
    result = run(options)
    assert result.best is not None
    assert result.best[ESTIMATE] != result.best["val_loss"]


def test_all_frames_need_no_end(options: dict[str, Any]) -> None:
    result = run(options, val_depth_fraction=1.0)
    assert result.best is not None
    assert ESTIMATE not in result.best
    folder = RunFolder(Path(options["output_dir"]))
    assert not folder.rows("best")
    assert not any(ERROR in row for row in folder.rows("val"))


@pytest.mark.parametrize("recorded", [None, 0.5], ids=["an older run", "another share"])
def test_a_resumed_run_measures_as_it_began(
    options: dict[str, Any], recorded: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(options, val_depth_fraction=recorded or 1.0, max_steps=2)
    config = RunFolder(Path(options["output_dir"])).config
    values = yaml.safe_load(config.read_text())
    if recorded is None:
        values = {name: value for name, value in values.items() if not name.startswith("val_d")}
        config.write_text(yaml.safe_dump(values))
    run(options, extend="constant")
    kept = yaml.safe_load(config.read_text())
    assert (kept["val_depth_fraction"], kept["val_dtype"]) == (recorded or 1.0, "fp32")
    said = " ".join(capsys.readouterr().out.split())
    assert f"val_depth_fraction {recorded or 1.0}, not 0.25" in said


def test_the_untrained_model_is_measured_on_all_frames(options: dict[str, Any]) -> None:
    config = CsmConfig.model_validate(options)
    result = train.run_baseline(config)
    whole = validate(make_model(seed=1), CsmFamily(), examples_of(SPLIT), config, all_targets=True)
    assert result.metrics == pytest.approx(whole.metrics, rel=1e-6)
    assert json.loads(RunFolder(Path(options["output_dir"])).metrics.read_text())["kind"] == "val"
