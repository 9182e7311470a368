"""Where weights come from.

Runs, sweeps, checkpoints and mere weights, and what is said when they are not there.
"""

import json
from pathlib import Path

import pytest

from csm_ft.config import ConfigError
from csm_ft.data.token_file import open_store
from csm_ft.families.csm.config import CsmConfig
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.source import find, is_hub_name, is_same_data, open_data


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
        (folder / "checkpoints" / step / "state.json").write_text(
            json.dumps(vars(TrainState(step=7)))
        )
    return folder


def test_a_run_and_its_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step_000005", "step_000010", "best")
    for name, checkpoint, wanted in (
        (run, "", "best"),
        (run, "best", "best"),
        (run, "last", "step_000010"),
        (run, "step_000005", "step_000005"),
        (run / "checkpoints/step_000005", "", "step_000005"),
        (run / "checkpoints/best", "", "best"),
    ):
        origin = find(str(name), checkpoint)
        assert origin.weights == str(run / "checkpoints" / wanted)
        assert (origin.run, origin.home, origin.sweep, origin.label) == (run, run, None, "run")
        assert origin.state is not None
        assert origin.state.step == 7
        assert origin.base == "sesame/csm-1b"


@pytest.mark.parametrize(
    ("steps", "checkpoint", "message"),
    [
        ((), "", "has no checkpoint: it has not saved one yet"),
        ((), "last", "python train.py --config"),
        (
            ("step_000005",),
            "",
            (
                r"has no checkpoint 'best' \(no validation since the first step\); it has"
                r" step_000005: .*last"
            ),
        ),
        (("best",), "last", "has no checkpoint 'last'; it has best"),
        (("best", "step_000005"), "step_5", "it has best, step_000005"),
        (("best",), "../../elsewhere", "has no checkpoint"),
    ],
)
def test_what_a_run_does_not_have(
    tmp_path: Path, steps: tuple[str, ...], checkpoint: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find(str(make_run(tmp_path / "run", *steps)), checkpoint)


def test_other_weights_are_left_to_who_reads_them(tmp_path: Path) -> None:
    (tmp_path / "downloaded").mkdir()
    for name in ("sesame/csm-1b", str(tmp_path / "downloaded"), str(tmp_path / "nothing")):
        origin = find(name)
        assert (origin.weights, origin.home, origin.config, origin.base) == (name, None, None, name)
        assert open_data(origin) == (None, "")
    assert find(str(tmp_path / "downloaded")).label == "downloaded"
    assert find("sesame/csm-1b").label == "sesame/csm-1b"
    with pytest.raises(ConfigError, match=r"--checkpoint last: .* leave the flag out"):
        find("sesame/csm-1b", "last")


def test_a_run_of_a_run_of_a_run_began_with_the_published_weights(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", "best")
    second = make_run(tmp_path / "second", "best", base=str(first / "checkpoints/best"))
    third = make_run(tmp_path / "third", "best", base=str(second))
    assert find(str(third)).base == "sesame/csm-1b"
    assert find(str(make_run(tmp_path / "x", "best", scratch=True))).base == ""
    of_foreign = make_run(tmp_path / "y", "best", base=str(tmp_path / "downloaded"))
    assert find(str(of_foreign)).base == str(tmp_path / "downloaded")
    circle = make_run(tmp_path / "z", "best", base=str(tmp_path / "z"))
    assert find(str(circle)).base == str(tmp_path / "z"), "ends"


def test_a_sweep_is_its_best_trial(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    trial = make_run(sweep / "trials/0003", "best", "step_000010")
    with pytest.raises(ConfigError, match="no trial of this sweep has completed yet"):
        find(str(sweep))
    (sweep / "best").mkdir()
    (sweep / "summary.json").write_text('{"best": 3}')
    (sweep / "trials.csv").write_text("")
    for name in (sweep, sweep / "best"):
        origin = find(str(name))
        assert (origin.weights, origin.run, origin.home, origin.sweep) == (
            str(sweep / "best"),
            trial,
            sweep,
            sweep,
        )
    assert find(str(sweep), "last").weights == str(trial / "checkpoints/step_000010")
    alone = find(str(trial))
    assert (alone.home, alone.sweep, alone.label) == (trial, sweep, "0003")


def test_the_token_file_of_a_run(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found from where the run was started and from elsewhere.

    Not if codec or tokenizer have become others.
    """
    info = open_store(tokens).info
    run = make_run(tmp_path / "exp/run", "best", data="data/tokens.hdf5")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tokens.hdf5").symlink_to(tokens)
    recorded = {
        "data_fingerprint": info.content_fingerprint,
        "codec_fingerprint": info.codec_fingerprint,
    }
    recorded["tokenizer_fingerprint"] = info.tokenizer_fingerprint

    def opened(**changes: str) -> tuple[bool, str]:
        (run / "env.json").write_text(json.dumps(recorded | changes))
        store, why = open_data(find(str(run)))
        return store is not None and is_same_data(find(str(run)), store), why

    assert opened() == (True, "")
    monkeypatch.chdir(tmp_path)
    assert opened() == (True, "")
    assert opened(data_fingerprint="other") == (False, ""), (
        "more rows since then: still good to speak with"
    )
    assert "made with another codec than when the run began" in opened(codec_fingerprint="other")[1]
    assert "another tokenizer" in opened(tokenizer_fingerprint="other")[1]
    (tmp_path / "data/tokens.hdf5").unlink()
    assert "tokens.hdf5: no such token file" in opened()[1]


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp/run").mkdir(parents=True)
    names = ("sesame/csm-1b", "exp/run", "./a/b", "/a", "a", "a/b/c", "../a", 'a/b")`', "a/b\n")
    assert [name for name in names if is_hub_name(name)] == ["sesame/csm-1b"]
