"""`csm_ft.evaluate` and the codec check as a user runs them, with judges that are bundled."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pretokenize
from csm_ft.data.__main__ import main as data
from csm_ft.evaluate import judge as judge_module
from csm_ft.evaluate.__main__ import main
from tests.conftest import ROOT, write_metadata
from tests.helpers.judging import FakeRecogniser

BASE = str(ROOT / "demo/base")
FAST = ["--embedder", "spectral", "--n_prompts", "2", "--max_sec", "1.2", "--device", "cpu"]
REAL = {"words", "voice", "quality", "pitch"}


class Parrot(FakeRecogniser):
    """Hears the same whatever is said."""

    def hear(self, wave: np.ndarray) -> str:
        return "there are four flowers"


@pytest.fixture(autouse=True)
def parrot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setattr(judge_module, "open_recogniser", lambda *_: Parrot({}))
        monkeypatch.setattr(judge_module, "open_dnsmos", lambda: "no DNSMOS")


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def row(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in found["rows"] if one["kind"] == kind)


def test_weights_beside_real_recordings(tokens: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "out"
    argv = [BASE, "--data", str(tokens), "--base", BASE, "--output", str(out), *FAST]
    assert main(argv) == 0
    said = capfd.readouterr()
    assert ".draft" not in said.out + said.err
    assert "generating 2 samples of the model" in said.out + said.err
    found = results(out)
    assert [one["kind"] for one in found["rows"]] == ["model", "codec", "recordings"]
    assert found["judges"]["words"] == "fake 1"
    model = row(found, "model")
    assert {"wer", "similarity", "stopped", "duration_ratio"} <= model["metrics"].keys()
    assert model["metrics"]["wer"]["num_prompts"] == 2
    assert {"nats_codebook_0", "nats_depth", "nats_eos"} <= model["on_data"].keys()
    assert model["by_group"]["length"]
    assert row(found, "recordings")["metrics"]["duration_ratio"]["value"] == pytest.approx(1, 0.01)
    for one in found["rows"]:
        assert all((out / clip["id"]).is_file() for clip in one["clips"])
    page = (out / "index.html").read_text()
    assert page.count("<audio") == 6
    assert "there are four flowers" in page


def test_measures_agree_with_validation(tokens: Path, tmp_path: Path) -> None:
    import train

    run = tmp_path / "run"
    argv = ["--data", str(tokens), "--output_dir", str(run), "--max_steps", "1", "--gen_every", "0"]
    argv += ["--val_depth_fraction", "0.1"]  # the best weights are measured on all frames
    assert train.main([*argv, "--wandb", "off", "--device", "cpu", "--threads", "1"]) == 0
    assert main([str(run), *FAST, "--base", "none"]) == 0
    measures = row(results(run / "evaluation"), "model")["on_data"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (best,) = [one for one in lines if one["kind"] == "best"]
    assert measures["nats_codebook_0"] == pytest.approx(best["val_c0"], rel=1e-4)
    assert measures["nats_depth"] == pytest.approx(best["val_depth"], rel=1e-4)


def test_second_evaluation_replaces_the_first(tokens: Path, tmp_path: Path) -> None:
    from csm_ft.generate.__main__ import main as generate

    out = tmp_path / "samples"
    argv = ["--model", BASE, "--text", "Yes.", "--max_sec", "0.5", "--device", "cpu"]
    assert generate([*argv, "--output", str(out), "--data", str(tokens)]) == 0
    for _ in range(2):
        assert main([str(out), *FAST]) == 0
    found = results(out / "evaluation")
    assert [one["kind"] for one in found["rows"]] == ["model"]
    assert found["data"] == {}


def test_folder_of_something_else_is_kept(tokens: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    argv = [BASE, "--data", str(tokens), "--output", str(tmp_path / "out"), *FAST]
    assert main(argv) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "MODEL is missing"),
        (["EMPTY"], "the folder is empty"),
        ([BASE], "name a token file with --data"),
        ([BASE, "--data", "TOKENS", "--prompts", "nowhere.json"], "nowhere.json"),
        ([BASE, "--data", "TOKENS", "--embedder", "nowhere/at-all"], "--embedder nowhere/at-all"),
    ],
)
def test_mistakes_are_named(
    argv: list[str], message: str, tokens: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"EMPTY": str(tmp_path / "empty"), "TOKENS": str(tokens)}
    out = tmp_path / "out"
    assert main([*(names.get(word, word) for word in argv), "--output", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_codec_check(tokens: Path, tmp_path: Path) -> None:
    copy = shutil.copy(tokens, tmp_path / "tokens.hdf5")
    argv = [str(copy), "--codec_check", "--codec_clips", "3", "--embedder", "spectral"]
    assert data(argv) == 0
    found = results(tmp_path / "tokens.hdf5.codec_check")
    assert [one["kind"] for one in found["rows"]] == ["codec", "recordings"]
    assert all(one["id"].split("/")[1].startswith("val-") for one in found["rows"][0]["clips"])
    assert "similarity" in found["rows"][0]["metrics"]


@pytest.mark.slow
def test_real_judges_hear_the_bundled_voice(tokens: Path, tmp_path: Path) -> None:
    copy = shutil.copy(tokens, tmp_path / "tokens.hdf5")
    assert data([str(copy), "--codec_check", "--codec_clips", "4"]) == 0
    found = results(tmp_path / "tokens.hdf5.codec_check")
    assert found["judges"].keys() == REAL
    real, coded = row(found, "recordings")["metrics"], row(found, "codec")["metrics"]
    assert real["wer"]["value"] < 0.5
    assert coded["wer"]["value"] < 1
    assert real["dnsmos"]["value"] > coded["dnsmos"]["value"]
    assert coded["similarity"]["value"] > 0.8


def test_mistake_in_prompts_names_the_users_file(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "mine.json"
    prompts.write_text(json.dumps([{"text": "Hello.", "emotion": "angry"}]))
    argv = [BASE, "--data", str(tokens), "--prompts", str(prompts), *FAST]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 2
    assert f"{prompts} entry 1: emotion 'angry': the model reads no tags" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_weights_on_the_hub_by_name(hub: Path, tmp_path: Path) -> None:
    tokens, out = tmp_path / "tokens.hdf5", tmp_path / "out"
    argv = ["--tokenizer", str(ROOT / "demo/tokenizer.json"), "--output", str(tokens)]
    for split, count in (("train", 3), ("val", 2)):
        argv += [f"--{split}_data", str(write_metadata(tmp_path / f"{split}.json", split, count))]
    assert pretokenize.main(argv) == 0
    argv = ["sesame/csm-1b", "--data", str(tokens), "--output", str(out), *FAST]
    assert main([*argv, "--embedder", "none"]) == 0
    found = results(out)
    assert [one["kind"] for one in found["rows"]] == ["model", "codec", "recordings"]
    assert row(found, "model")["name"] == "sesame/csm-1b"
    assert row(found, "model")["metrics"]["seconds"]["num_prompts"] == 2
