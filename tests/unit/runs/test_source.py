"""Where weights come from, and what is said when they are not there."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from csm_ft.data.token_file import open_store
from csm_ft.errors import ConfigError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.source import Source, find, fingerprints, is_same_data, open_data


def make_run(
    folder: Path,
    *steps: str,
    base: str = "sesame/csm-1b",
    data: str = "tokens.hdf5",
    scratch: bool = False,
) -> Path:
    folder.mkdir(parents=True)
    config = CsmConfig(model_name_or_checkpoint_path=base, data=data, train_from_scratch=scratch)
    (folder / "config.yaml").write_text(config.to_yaml())
    for step in steps:
        (folder / "checkpoints" / step).mkdir(parents=True)
        state = json.dumps(asdict(TrainState(step=7)))
        (folder / "checkpoints" / step / "state.json").write_text(state)
    return folder


def places(source: Source) -> tuple[Path | None, Path | None, Path | None]:
    run = source.run.path if source.run is not None else None
    sweep = source.sweep.path if source.sweep is not None else None
    return source.home, run, sweep


@pytest.mark.parametrize(
    ("name", "checkpoint", "wanted"),
    [
        (".", "", "checkpoints/best"),
        (".", "best", "checkpoints/best"),
        (".", "last", "checkpoints/step_000010"),
        (".", "step_000005", "checkpoints/step_000005"),
        ("checkpoints", "", "checkpoints/best"),
        ("checkpoints/step_000005", "", "checkpoints/step_000005"),
        ("checkpoints/best", "", "checkpoints/best"),
        ("checkpoints/best/model.safetensors", "", "checkpoints/best/model.safetensors"),
    ],
)
def test_checkpoint_belongs_to_its_run(
    tmp_path: Path, name: str, checkpoint: str, wanted: str
) -> None:
    run = make_run(tmp_path / "run", "step_000005", "step_000010", "best")
    (run / "checkpoints/best/model.safetensors").touch()
    source = find(str(run / name), checkpoint)
    assert Path(source.weights) == run / wanted
    assert (*places(source), source.label) == (run, run, None, "run")
    assert source.state is not None
    assert source.state.step == 7
    assert source.base == "sesame/csm-1b"


@pytest.mark.parametrize(
    ("steps", "checkpoint", "message"),
    [
        ((), "", "has no checkpoint: it has not saved one yet"),
        ((), "last", "python train.py --config"),
        (
            ("step_000005",),
            "",
            r"has no checkpoint 'best' \(no validation since the first step\); it has step_000005:"
            r" .*last",
        ),
        (("best",), "last", "has no checkpoint 'last'; it has best"),
        (("best", "step_000005"), "step_5", "it has best, step_000005"),
        (("best",), "../../elsewhere", "has no checkpoint"),
    ],
)
def test_missing_checkpoint_is_refused(
    tmp_path: Path, steps: tuple[str, ...], checkpoint: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find(str(make_run(tmp_path / "run", *steps)), checkpoint)


def test_other_weights_stay_as_named(tmp_path: Path) -> None:
    (tmp_path / "downloaded").mkdir()
    for name in ("sesame/csm-1b", str(tmp_path / "downloaded"), str(tmp_path / "nothing")):
        source = find(name)
        assert (source.weights, source.home, source.config, source.base) == (name, None, None, name)
        assert open_data(source) == (None, "")
    assert find(str(tmp_path / "downloaded")).label == "downloaded"
    assert find("sesame/csm-1b").label == "sesame/csm-1b"
    with pytest.raises(ConfigError, match=r"--checkpoint last: .* leave the flag out"):
        find("sesame/csm-1b", "last")


def test_base_is_followed_through_runs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", "best")
    second = make_run(tmp_path / "second", "best", base=str(first / "checkpoints/best"))
    third = make_run(tmp_path / "third", "best", base=str(second))
    assert find(str(third)).base == "sesame/csm-1b"
    assert find(str(make_run(tmp_path / "x", "best", scratch=True))).base == ""
    of_foreign = make_run(tmp_path / "y", "best", base=str(tmp_path / "downloaded"))
    assert find(str(of_foreign)).base == str(tmp_path / "downloaded")
    circle = make_run(tmp_path / "z", "best", base=str(tmp_path / "z"))
    assert find(str(circle)).base == str(tmp_path / "z"), "ends"


def test_sweep_is_its_best_trial(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    trial = make_run(sweep / "trials/0003", "best", "step_000010")
    with pytest.raises(ConfigError, match="no trial of this sweep has completed yet"):
        find(str(sweep))
    (sweep / "best").mkdir()
    (sweep / "best/model.safetensors").touch()
    (sweep / "summary.json").write_text('{"best": 3}')
    (sweep / "trials.csv").write_text("")
    for name in (sweep, sweep / "best"):
        source = find(str(name))
        assert source.weights == str(sweep / "best")
        assert places(source) == (sweep, trial, sweep)
    file = find(str(sweep / "best/model.safetensors"))
    assert (file.weights, file.home) == (str(sweep / "best/model.safetensors"), sweep)
    assert find(str(sweep), "last").weights == str(trial / "checkpoints/step_000010")
    alone = find(str(trial))
    assert (places(alone), alone.label) == ((trial, trial, sweep), "0003")


def run_with_data(tokens: Path, folder: Path, **changes: str) -> Path:
    """A run whose token file lies beside exp/, and what it recorded of it."""
    run = make_run(folder / "exp/run", "best", data="data/tokens.hdf5")
    (folder / "data").mkdir()
    (folder / "data/tokens.hdf5").symlink_to(tokens)
    info = open_store(tokens).info
    recorded = {
        "data_fingerprint": info.content_fingerprint,
        "audio_fingerprint": info.audio_fingerprint,
        "text_fingerprint": info.text_fingerprint,
    }
    (run / "env.json").write_text(json.dumps(recorded | changes))
    return run


def test_token_file_is_found_from_anywhere(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with_data(tokens, tmp_path)
    for folder in (Path(), tmp_path, run):
        monkeypatch.chdir(folder)
        store, why = open_data(find(str(run)))
        assert store is not None
        assert (why, is_same_data(find(str(run)), store.info)) == ("", True)


def test_more_rows_since_are_other_data(tokens: Path, tmp_path: Path) -> None:
    source = find(str(run_with_data(tokens, tmp_path, data_fingerprint="other")))
    store, _ = open_data(source)
    assert store is not None, "still good to generate with"
    assert not is_same_data(source, store.info)


@pytest.mark.parametrize("what", ["audio", "text"])
def test_other_encoder_since_is_refused(tokens: Path, tmp_path: Path, what: str) -> None:
    run = run_with_data(tokens, tmp_path, **{f"{what}_fingerprint": "other"})
    store, why = open_data(find(str(run)))
    assert store is None
    assert f"its {what} was encoded otherwise when the run began" in why


def test_missing_token_file_is_named(tokens: Path, tmp_path: Path) -> None:
    run = run_with_data(tokens, tmp_path)
    (tmp_path / "data/tokens.hdf5").unlink()
    assert "tokens.hdf5: no such token file" in open_data(find(str(run)))[1]


def test_old_environments_are_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "best")
    old = {"codec_fingerprint": "c", "tokenizer_fingerprint": "t", "data_fingerprint": "d"}
    (run / "env.json").write_text(json.dumps(old))
    assert fingerprints(find(str(run))) == {"audio": "c", "text": "t"}


def test_command_to_resume_quotes_the_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my runs" / "a")
    with pytest.raises(ConfigError, match=f"train.py --config '{run}/config.yaml'`"):
        find(str(run))
