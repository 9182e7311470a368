"""Exports as a user makes them, read back by other programs, and the way back into train.py."""

import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import CsmForConditionalGeneration

import pretokenize
import train
from csm_ft import codecs
from csm_ft.cli import parse_args
from csm_ft.errors import CodecError
from csm_ft.export.__main__ import main as export
from csm_ft.export.run import EXPORT
from csm_ft.families.base import Prompt, SamplingOptions
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.encoder import CsmEncoder, open_tokenizer
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.export import sesame as sesame_layout
from csm_ft.families.csm.export import transformers as transformers_layout
from csm_ft.families.csm.export.probe import difference, logits_of, random_probes
from csm_ft.families.csm.weights import load_model
from tests.conftest import write_metadata
from tests.integration.test_train import TINY

ROOT = Path(__file__).resolve().parents[2]
BRIEF = (
    "--max_steps 4 --val_every 2 --gen_every 0 --threads 1 --wandb off --learning_rate 5e-3".split()
)
FORMATS = ("sesame", "transformers", "merged")


@pytest.fixture(scope="module")
def run(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned something."""
    folder = tmp_path_factory.mktemp("full") / "run"
    assert train.main(["--data", str(tokens), "--output_dir", str(folder), *TINY, *BRIEF]) == 0
    return folder


@pytest.fixture(scope="module")
def lora_run(tokens: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on that run's weights."""
    folder = tmp_path_factory.mktemp("lora") / "adapted"
    options = [
        "--method",
        "lora",
        "--lora_rank",
        "4",
        "--lora_dora",
        "--model_name_or_checkpoint_path",
        str(run),
    ]
    assert train.main(["--data", str(tokens), "--output_dir", str(folder), *BRIEF, *options]) == 0
    return folder


@pytest.fixture(autouse=True)
def _no_sesame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CSM_REPO_PATH", raising=False)
    monkeypatch.setattr("csm_ft.cli.load_env_files", lambda: None)


@pytest.fixture
def sesame(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that CSM_REPO_PATH points to."""
    folder = ROOT / "tests/sesame"
    monkeypatch.setenv("CSM_REPO_PATH", str(folder))
    return folder


def val_loss(tokens: Path, weights: Path, folder: Path) -> float:
    """The validation loss of weights, as train.py measures it before the first step."""
    argv = [
        "--data",
        str(tokens),
        "--output_dir",
        str(folder),
        "--model_name_or_checkpoint_path",
        str(weights),
        *BRIEF,
    ]
    result = train.run_baseline(parse_args(CsmConfig, argv, program="", description=""))
    return result.metrics["val_loss"]


def best(run: Path) -> float:
    return json.loads((run / "checkpoints/best/state.json").read_text())["best"]["val_loss"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("which", ["run", "lora_run"])
def test_export_equals_the_run(
    which: str,
    kind: str,
    request: pytest.FixtureRequest,
    tokens: Path,
    tmp_path: Path,
    sesame: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source: Path = request.getfixturevalue(which)
    output = tmp_path / "export"
    assert export([str(source), "--format", kind, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    is_adapter = which == "lora_run" and kind == "transformers"
    reference = {"sesame": "Sesame's models.py"}.get(
        kind, "peft and transformers" if is_adapter else "transformers"
    )
    assert f"read back by {reference}: c0 logits differ by at most " in said
    record = json.loads((output / EXPORT).read_text())
    assert record["difference"]["c0"] < 1e-4 * record["difference"]["c0_spread"]
    assert record["difference"]["depth"] < 1e-4 * record["difference"]["depth_spread"]
    assert val_loss(tokens, output, tmp_path / "back") == pytest.approx(best(source), abs=1e-4)
    assert (output / "adapter_model.safetensors").is_file() == is_adapter
    assert (output / "model.safetensors").is_file() == (not is_adapter)
    # Everything that speaking takes, and a card.
    assert (output / "codec.safetensors").read_bytes() == (
        ROOT / "demo/codec.safetensors"
    ).read_bytes()
    assert (output / "tokenizer.json").read_bytes() == (ROOT / "demo/tokenizer.json").read_bytes()
    assert json.loads((output / "speech.json").read_text())["codec_source"] == "codec.safetensors"
    card = ModelCard.load(output / "README.md")
    assert card.data.library_name == {"sesame": "csm"}.get(
        kind, "peft" if is_adapter else "transformers"
    )
    assert f"{best(source):.4f}" in card.text
    assert str(tmp_path.parent.parent) not in card.content, "where things lie is nobody's business"
    assert len({path.stat().st_mode for path in output.iterdir()}) == 1, (
        "who may read one file may read all"
    )


def test_default_output_may_be_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export([str(run), "--format", "sesame"]) == 0
    said = capsys.readouterr().out
    for words in (
        "Sesame's own code did not check this",
        "requirements-sesame.txt",
        "CSM_REPO_PATH",
    ):
        assert words in said
    output = run / "export-sesame"
    assert json.loads((output / "config.json").read_text())["backbone_flavor"] == "backbone-2x32"
    assert export([str(run / "checkpoints/step_000004"), "--format", "sesame"]) == 0, (
        "an export may be replaced by another"
    )
    assert export([str(run), "--format", "sesame", "--checkpoint", "last"]) == 0
    (output / EXPORT).unlink()
    assert export([str(run), "--format", "sesame"]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    shutil.rmtree(output)


def test_any_checkpoint_is_exported(run: Path, tmp_path: Path) -> None:
    assert (
        export(
            [
                str(run),
                "--format",
                "sesame",
                "--checkpoint",
                "step_000004",
                "--output",
                str(tmp_path / "x"),
            ]
        )
        == 0
    )
    theirs, ours = (
        load_file(p / "model.safetensors")
        for p in (tmp_path / "x", run / "checkpoints/step_000004")
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@pytest.mark.parametrize("kind", ["sesame", "merged"])
def test_cost_of_bf16_is_shown(
    run: Path, tokens: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "export"
    assert export([str(run), "--format", kind, "--dtype", "bf16", "--output", str(output)]) == 0
    assert (
        "rounding the weights to bf16 costs: c0 logits differ by at most" in capsys.readouterr().out
    )
    assert "rounding the weights to bf16 costs" in (output / "README.md").read_text()
    kinds = {
        t.dtype
        for name, t in load_file(output / "model.safetensors").items()
        if not name.startswith("codec_model.")
    }
    assert kinds == {torch.bfloat16}
    assert val_loss(tokens, output, tmp_path / "back") == pytest.approx(best(run), abs=0.02)


def test_adapters_stay_fp32(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        export(
            [
                str(lora_run),
                "--format",
                "transformers",
                "--dtype",
                "bf16",
                "--output",
                str(tmp_path / "x"),
            ]
        )
        == 2
    )
    assert "--format merged" in capsys.readouterr().err


def test_transformers_generates_the_same_codes(run: Path, tmp_path: Path) -> None:
    """Greedy frames by the library's own generate, from text alone."""
    assert export([str(run), "--format", "transformers", "--output", str(tmp_path / "x")]) == 0
    theirs = CsmForConditionalGeneration.from_pretrained(tmp_path / "x")
    tokenizer = open_tokenizer(str(tmp_path / "x"))
    encoder = CsmEncoder(codecs.open_codec("melrvq"), tokenizer)
    prompts, options = [Prompt("a", "A clear morning.", "0")], SamplingOptions(max_sec=6 * 0.08)
    (sample,) = load_model(str(run)).sample(prompts, encoder, options)
    ids = torch.from_numpy(tokenizer.encode("[0]A clear morning.").astype(np.int64))[None]
    said = theirs.generate(
        input_ids=ids, do_sample=False, depth_decoder_do_sample=False, max_new_tokens=6
    )
    np.testing.assert_array_equal(said[0].numpy(), sample.arrays["codes"])


def snippet(folder: Path) -> str:
    text = (folder / "README.md").read_text()
    return text.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(folder))


def test_code_on_the_card_runs(
    run: Path, lora_run: Path, tmp_path: Path, sesame: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, sesames, adapter = (tmp_path / name for name in ("base", "sesame", "adapter"))
    assert export([str(run), "--format", "transformers", "--output", str(base)]) == 0
    assert export([str(run), "--format", "sesame", "--output", str(sesames)]) == 0
    assert export([str(lora_run), "--format", "transformers", "--output", str(adapter)]) == 0
    probes, expected = random_probes(load_model(str(run)).size), load_model(str(run))

    def run_code(code: str) -> Any:
        names: dict[str, Any] = {}
        exec(code, names)
        return names["model"]

    module = types.ModuleType("models")
    exec((sesame / "models.py").read_text(), vars(module))
    monkeypatch.setitem(sys.modules, "models", module)
    said = sesame_layout._logits(run_code(snippet(sesames)).eval(), probes[0])
    # Not bit for bit: torchtune rotates by four products, our model by a complex one.
    torch.testing.assert_close(said[0], logits_of(expected, probes[:1]).c0, rtol=0, atol=2e-6)
    theirs = run_code(snippet(base))
    assert difference(
        logits_of(expected, probes), transformers_layout.logits_of(theirs, probes)
    ).is_same
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        adapted = run_code(snippet(adapter).replace("BASE_FOLDER", str(base)))
    assert isinstance(adapted, PeftModel)
    wanted = logits_of(load_model(str(lora_run)), probes)
    assert difference(wanted, transformers_layout.logits_of(adapted, probes)).is_same
    assert not difference(wanted, logits_of(expected, probes)).is_same, "adapters that do something"


@pytest.mark.parametrize("kind", ["sesame", "transformers"])
def test_wrong_export_is_not_kept(
    run: Path,
    tmp_path: Path,
    kind: str,
    sesame: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other code without the scaling of RoPE, and rows in another order: an older export stays."""
    output = tmp_path / "export"
    assert export([str(run), "--format", kind, "--output", str(output)]) == 0
    before = (output / EXPORT).read_bytes()
    monkeypatch.setenv("STAND_IN_FORGETS_ROPE_SCALING", "1")
    monkeypatch.setattr(layouts, "_rope_heads", lambda name, size: 0)
    for place in (output, tmp_path / "new"):
        assert export([str(run), "--format", kind, "--output", str(place)]) == 1
        assert "the export differs from the run" in capsys.readouterr().err
    assert (output / EXPORT).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["export"], "nothing else is left"


def test_missing_tensors_are_seen(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = transformers_layout.write_model

    def forgetful(folder: Path, *rest: Any) -> None:
        write(folder, *rest)
        tensors = load_file(folder / "model.safetensors")
        del tensors["lm_head.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(transformers_layout, "write_model", forgetful)
    assert export([str(run), "--format", "merged", "--output", str(tmp_path / "x")]) == 1
    assert "lm_head.weight" in capsys.readouterr().err


def test_kill_leaves_no_half_folder(run: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal
from csm_ft.export.__main__ import main
from csm_ft.families.csm.export import sesame
write = sesame.write_model
def die(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
sesame.write_model = die
main([{str(run)!r}, "--format", "sesame", "--output", {str(tmp_path / "x")!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    assert list(tmp_path.iterdir()) != [], "it was killed in the middle"
    assert export([str(run), "--format", "sesame", "--output", str(tmp_path / "x")]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csm_ft.families.model.save_file", full)
    assert export([str(run), "--format", "sesame", "--output", str(tmp_path / "x")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_run_without_token_file_is_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text().splitlines()
    (copy / "config.yaml").write_text(
        "\n".join(["data: gone.hdf5" if line.startswith("data:") else line for line in config])
    )
    assert export([str(copy), "--format", "sesame"]) == 0
    assert "gone.hdf5: no such token file" in capsys.readouterr().out
    output = copy / "export-sesame"
    assert not (output / "speech.json").exists()
    assert "gone.hdf5, which is not as it was then" in ModelCard.load(
        output / "README.md"
    ).text.replace("\\", "")


def test_damaged_adapter_is_refused(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(lora_run / "checkpoints/best", folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "adapter_model.safetensors")
    for kind in FORMATS:
        assert export([str(folder), "--format", kind, "--output", str(tmp_path / "x")]) == 2
        assert "1 tensors missing" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def unreachable(*arguments: Any, **keywords: Any) -> None:
    raise CodecError("the hub is gone")


def test_hub_weights_convert_with_mimi(
    hub: Path,
    tmp_path: Path,
    sesame: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A hub name to transformers with Mimi inside, that to bf16, and back to Sesame's layout."""
    there, half, back = (tmp_path / name for name in ("there", "half", "back"))
    assert export(["sesame/csm-1b", "--format", "transformers", "--output", str(there)]) == 0
    assert (there / "tokenizer.json").read_bytes() == (ROOT / "demo/tokenizer.json").read_bytes()
    theirs, mimi = (
        load_file(there / "model.safetensors"),
        load_file(next(hub.glob("models--kyutai--mimi/snapshots/*/model.safetensors"))),
    )
    assert {
        name.removeprefix("codec_model.") for name in theirs if name.startswith("codec_model.")
    } == set(mimi)
    assert all(torch.equal(theirs[f"codec_model.{name}"], tensor) for name, tensor in mimi.items())
    config = json.loads((there / "config.json").read_text())
    assert (
        config["audio_token_id"],
        config["audio_eos_token_id"],
        config["codebook_pad_token_id"],
    ) == (128002, 128003, 2050)
    assert config["rope_parameters"]["rope_type"] == "llama3"
    monkeypatch.setattr(
        codecs, "open_codec", unreachable
    )  # from here on the codec is taken from the weights themselves
    assert (
        export([str(there), "--format", "transformers", "--dtype", "bf16", "--output", str(half)])
        == 0
    )
    halved = load_file(half / "model.safetensors")
    assert all(
        torch.equal(halved[f"codec_model.{name}"], tensor) for name, tensor in mimi.items()
    ), "codes must not change"
    assert export([str(there), "--format", "sesame", "--output", str(back)]) == 0
    original = load_file(next(hub.glob("models--sesame--csm-1b/snapshots/*/model.safetensors")))
    returned = load_file(back / "model.safetensors")
    assert returned.keys() == original.keys()
    assert all(torch.equal(returned[name], tensor) for name, tensor in original.items())
    assert "Generator(model).generate" in (back / "README.md").read_text()
    capsys.readouterr()
    assert export(["sesame/csm-1b", "--format", "sesame"]) == 2
    assert "--output DIR" in capsys.readouterr().err


def test_run_on_mimis_codes(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_data, val_data = (
        write_metadata(tmp_path / "train.json", "train", 4),
        write_metadata(tmp_path / "val.json", "val", 2),
    )
    tokens, run = tmp_path / "tokens.hdf5", tmp_path / "run"
    assert (
        pretokenize.main(
            [
                "--train_data",
                str(train_data),
                "--val_data",
                str(val_data),
                "--output",
                str(tokens),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert (
        train.main(["--data", str(tokens), "--output_dir", str(run), *BRIEF, "--max_steps", "1"])
        == 0
    )
    assert export([str(run), "--format", "transformers"]) == 0
    card = ModelCard.load(run / "export-transformers/README.md")
    assert card.data.base_model == "sesame/csm-1b"
    assert card.data.license == "apache-2.0"
    speech = json.loads((run / "export-transformers/speech.json").read_text())
    assert (speech["codec"], speech["codec_source"], speech["num_codebooks"]) == (
        "mimi",
        "kyutai/mimi",
        32,
    )
    assert not (run / "export-transformers/codec.safetensors").exists(), (
        "Mimi is named, with its hash"
    )
    monkeypatch.setattr(codecs, "from_facts", unreachable)
    capsys.readouterr()
    assert export([str(run), "--format", "merged"]) == 2
    assert "the hub is gone; --format sesame needs none" in capsys.readouterr().err
    assert export([str(run), "--format", "sesame"]) == 0


def test_sweep_exports_its_best_trial(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best trial's best weights, with the leaderboard; of a trial by itself, too."""
    sweep = tmp_path / "my-sweep"
    shutil.copytree(run, sweep / "trials/0001")
    assert export([str(sweep), "--format", "sesame"]) == 2
    assert "no trial of this sweep has completed yet" in capsys.readouterr().err
    shutil.copytree(run / "checkpoints/best", sweep / "best")
    (sweep / "summary.json").write_text(json.dumps({"best": 1}))
    columns = "number,state,reason,value,best_epoch,is_default,params.learning_rate"
    rows = [
        "0,completed,,6.36,5.4,True,0.0005",
        "1,completed,,5.862,5.4,False,0.0015",
        "2,poison,,,,False,0.1",
    ]
    (sweep / "trials.csv").write_text("\n".join([columns, *rows]))
    shutil.rmtree(sweep / "trials/0001/checkpoints")
    for name in (sweep, sweep / "best"):
        assert export([str(name), "--format", "sesame"]) == 0
        card = ModelCard.load(sweep / "export-sesame/README.md").text
        assert "# my-sweep" in card
        assert "| 1 | 1 | 5.862 | 5.4 | completed | 0.0015 |\n| 2 | 0 (default) | 6.36 |" in card
    assert export([str(sweep / "trials/0001"), "--format", "sesame"]) == 2
    assert "a trial whose weights its sweep has dropped" in capsys.readouterr().err
    shutil.copytree(sweep / "best", sweep / "trials/0001/checkpoints/best")
    assert export([str(sweep / "trials/0001"), "--format", "sesame"]) == 0
    assert "0 (default)" in (sweep / "trials/0001/export-sesame/README.md").read_text()
