"""`--judge_every`: judges hear what a run says, and change nothing of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from csm_ft.evaluate import judge as judge_module
from csm_ft.evaluate.__main__ import main as evaluate
from tests.helpers.judging import FakeEmbedder, FakeRecogniser
from tests.integration.test_train import Killed, Killer, config_of, options, rows, weights

FEW = ["--judge_n_prompts", "2", "--judge_max_sec", "0.8", "--gen_every", "0"]
RUN = ["--n_epochs", "2", "--val_every", "1ep", "--judge_every", "1/2", *FEW]
SHORT = ["--max_steps", "1", "--gen_every", "0"]


class Parrot(FakeRecogniser):
    """Hears the same whatever is said."""

    def hear(self, wave: np.ndarray) -> str:
        return "there are four flowers"


class Rude(FakeEmbedder):
    """Draws from torch's random state and changes its threads, as making a network does."""

    def __init__(self) -> None:
        torch.nn.Linear(3, 3)

    def embed(self, wave: np.ndarray) -> np.ndarray:
        torch.rand(5)
        torch.set_num_threads(2)
        return super().embed(wave)


@pytest.fixture(autouse=True)
def fakes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    if "slow" not in request.keywords:
        monkeypatch.setattr(judge_module, "open_recogniser", lambda *_: Parrot({}))
        monkeypatch.setattr(judge_module, "open_embedder", lambda *_: Rude())
        monkeypatch.setattr(judge_module, "open_dnsmos", lambda: "no DNSMOS")
    yield
    torch.set_num_threads(threads)


def run(tokens: Path, folder: Path, *more: str) -> int:
    return train.main(options(tokens, folder, *more))


def judged(folder: Path, step: int) -> dict[str, Any]:
    return json.loads((folder / f"judged/step_{step:06d}/evaluation.json").read_text())


def environment(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "env.json").read_text())


def test_numbers_stand_beside_the_validation(tokens: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(tokens, tmp_path, *RUN) == 0
    val = rows(tmp_path, "val")
    assert [row["step"] for row in val] == [0, 3, 6]
    assert all({"wer", "cer", "similarity", "stopped", "val_loss"} <= row.keys() for row in val)
    found = judged(tmp_path, 6)
    assert found["judges"]["words"] == "fake 1"
    assert found["rows"][0]["metrics"]["wer"]["value"] == val[-1]["wer"]
    for clip in found["rows"][0]["clips"]:
        assert (tmp_path / "judged/step_000006" / clip["id"]).is_file()
        assert clip["heard"] == "there are four flowers"
    said = capsys.readouterr().out
    assert said.count("no DNSMOS") == 1
    assert "step 6  judged 2 samples: wer" in said
    assert environment(tmp_path)["judges"]["voice"] == "fake 2"
    assert environment(tmp_path)["judges_missing"] == ["no DNSMOS"]


@pytest.mark.parametrize(
    "more", [[], ["--train_from_scratch", "false", "--method", "lora", "--lora_dropout", "0.5"]]
)
def test_judging_does_not_change_the_run(tokens: Path, tmp_path: Path, more: list[str]) -> None:
    lengths = ["--n_epochs", "2", "--val_every", "1ep", "--gen_every", "0", *more]
    quiet, heard = tmp_path / "quiet", tmp_path / "heard"
    judging = ["--judge_every", "1", *FEW]
    argv = [options(tokens, folder, *lengths) for folder in (quiet, heard)]
    if more:  # adapters need weights to adapt: those of the demo
        argv = [_without_sizes(one) for one in argv]
    assert train.main(argv[0]) == 0
    assert train.main([*argv[1], *judging]) == 0
    for name in ("last", "best"):
        one, other = (_tensors(folder, name) for folder in (quiet, heard))
        assert one == other
    losses = [{row["step"]: row["val_loss"] for row in rows(run, "val")} for run in (quiet, heard)]
    assert losses[0].items() <= losses[1].items()
    assert [row["loss"] for row in rows(quiet, "train")] == [
        row["loss"] for row in rows(heard, "train")
    ]


def _without_sizes(argv: list[str]) -> list[str]:
    kept = [*argv[:4], "--threads", "1", "--wandb", "off", "--device", "cpu"]
    rest = argv[argv.index("--n_epochs") :]
    return [*kept, *rest]


def _tensors(folder: Path, which: str) -> dict[str, bytes]:
    """Return the bytes of every tensor; the files around them name their facts in any order."""
    checkpoints = folder / "checkpoints"
    found = checkpoints / "best" if which == "best" else max(checkpoints.glob("step_*"))
    return {
        f"{path.name} {name}": tensor.numpy().tobytes()
        for path in found.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def test_a_killed_run_resumes_exactly(tokens: Path, tmp_path: Path) -> None:
    more = [*RUN, "--save_every", "2", "--best_by", "similarity"]
    assert run(tokens, tmp_path / "whole", *more) == 0
    config = config_of(options(tokens, tmp_path / "killed", *more))
    with pytest.raises(Killed):
        train.run(config, Killer(5))
    train.run(config)
    assert rows(tmp_path / "killed", "val") == rows(tmp_path / "whole", "val")
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all((tensor == killed[name]).all() for name, tensor in whole.items())
    assert judged(tmp_path / "killed", 6)["rows"] == judged(tmp_path / "whole", 6)["rows"]


def test_numbers_are_those_of_an_evaluation(tokens: Path, tmp_path: Path) -> None:
    assert run(tokens, tmp_path, *RUN, "--device", "cpu") == 0
    argv = [str(tmp_path), "--checkpoint", "last", "--base", "none", "--device", "cpu"]
    assert evaluate([*argv, "--n_prompts", "2", "--max_sec", "0.8"]) == 0
    found = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["rows"][0]
    assert found["metrics"] == judged(tmp_path, 6)["rows"][0]["metrics"]


def test_samples_of_a_step_can_be_evaluated(tokens: Path, tmp_path: Path) -> None:
    assert run(tokens, tmp_path, *RUN) == 0
    assert evaluate([str(tmp_path / "judged/step_000006"), "--output", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/evaluation.json").read_text())["rows"][0]
    assert found["metrics"]["wer"] == judged(tmp_path, 6)["rows"][0]["metrics"]["wer"]


@pytest.mark.parametrize(("metric", "best"), [("similarity", max), ("wer", min)])
def test_best_follows_a_judged_number(
    metric: str, best: Any, tokens: Path, tmp_path: Path, capsys: Any
) -> None:
    more = ["--n_epochs", "3", "--val_every", "1", "--judge_every", "1/3", *FEW]
    assert run(tokens, tmp_path, *more, "--best_by", metric) == 0
    values = {row["step"]: row[metric] for row in rows(tmp_path, "val") if metric in row}
    assert list(values) == [0, 3, 6, 9]
    wanted = best(value for step, value in values.items() if step)
    state = json.loads((tmp_path / "checkpoints/best/state.json").read_text())
    assert state["best"][metric] == wanted
    assert f"best {metric} {wanted:.4f}" in capsys.readouterr().out


def test_only_judged_validations_are_best(tokens: Path, tmp_path: Path) -> None:
    more = ["--n_epochs", "3", "--val_every", "1", "--judge_every", "1/2", *FEW]
    assert run(tokens, tmp_path, *more, "--judge_best", "--lr_decay", "constant") == 0
    state = json.loads((tmp_path / "checkpoints/best/state.json").read_text())
    assert state["step"] in (5, 9)
    assert "wer" in state["best"]


def test_patience_waits_for_a_judged_number(tokens: Path, tmp_path: Path, capsys: Any) -> None:
    more = ["--n_epochs", "6", "--val_every", "1", "--judge_every", "1ep", *FEW]
    hopeless = ["--best_by", "similarity", "--patience", "2ep", "--min_delta", "3"]
    assert run(tokens, tmp_path, *more, *hopeless) == 0
    assert rows(tmp_path, "val")[-1]["epoch"] == 3
    said = capsys.readouterr().out
    assert "similarity has not risen by more than 3 above" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--best_by", "wer"], "wer is a judged number, and nothing is judged"),
        (["--best_by", "f0_mean_st", *RUN], "neither a low nor a high f0_mean_st is better"),
        (["--best_by", "dnsmos", *RUN], "the judge of quality is missing: no DNSMOS"),
        (["--best_by", "val_wer", *RUN], "validation measures val_loss"),
        ([*RUN, "--judge_prompts", "nowhere.json"], "nowhere.json"),
        ([*RUN, "--judge_every", "often"], "is not a duration"),
    ],
)
def test_mistakes_are_named(
    more: list[str], message: str, tokens: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run(tokens, tmp_path / "run", *more) == 2
    assert message in capsys.readouterr().err


def test_prompts_of_the_users_own(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('["The ferry leaves at noon."]')
    argv = [*SHORT, *FEW, "--judge_every", "1", "--judge_prompts", str(tmp_path / "mine.json")]
    assert run(tokens, tmp_path / "run", *argv) == 0
    (clip,) = judged(tmp_path / "run", 1)["rows"][0]["clips"]
    assert clip["text"] == "The ferry leaves at noon."


@pytest.mark.slow
def test_real_judges_change_nothing_either(tokens: Path, tmp_path: Path) -> None:
    lengths = ["--n_epochs", "1", "--val_every", "1ep", "--gen_every", "0"]
    assert run(tokens, tmp_path / "quiet", *lengths) == 0
    assert run(tokens, tmp_path / "heard", *lengths, "--judge_every", "1/2", *FEW) == 0
    for name in ("last", "best"):
        assert _tensors(tmp_path / "quiet", name) == _tensors(tmp_path / "heard", name)
    assert judged(tmp_path / "heard", 3)["judges"].keys() == {"words", "voice", "quality", "pitch"}
    assert {"wer", "dnsmos", "similarity"} <= rows(tmp_path / "heard", "val")[-1].keys()
