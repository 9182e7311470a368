"""Moshi through the programs: dialogues to token file, training, resume, samples, sweep, export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file

import pretokenize
import sweep
import train
from csm_ft.data.__main__ import main as data
from csm_ft.data.token_file import open_store
from csm_ft.evaluate.__main__ import main as evaluate
from csm_ft.export.__main__ import main as export
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.export.package import is_installed
from csm_ft.families.stores import verify
from csm_ft.generate.__main__ import main as generate
from tests.helpers.dialogues import RATE_HZ, WORDS, write_dialogues
from tests.helpers.killed import check_resume
from tests.helpers.side_by_side import train_side_by_side
from tests.helpers.wandb_files import offline_runs

SMALL = "--model_dim 32 --model_layers 1 --model_heads 2 --model_depth_dim 16".split()
SMALL += "--model_depth_layers 1 --model_depth_heads 2".split()
OPTIONS = (
    *("--learning_rate", "3e-3", "--batch_size", "2", "--wandb", "off", "--device", "cpu"),
    *("--threads", "1", "--val_every", "2", "--gen_every", "4", "--save_every", "2"),
    *("--window_sec", "4", "--min_window_sec", "1", "--log_every", "2"),
    *("--gen_prompt_sec", "2", "--gen_sec", "1"),
)
ENCODING = ("--family", "moshi", "--codec", "melrvq", "--fit_tokenizer", "320")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialogues")
    output = folder / "tokens.hdf5"
    for name, count in (("train", 5), ("val", 2)):
        write_dialogues(folder, name, count)
    assert pretokenize.main(encoding(folder, output)) == 0
    return output


def encoding(folder: Path, output: Path) -> list[str]:
    data = [f"--{name}_data={folder / f'{name}.jsonl'}" for name in ("train", "val")]
    return [*ENCODING, *data, "--output", str(output)]


def run(tokens: Path, output: Path, *more: str) -> int:
    return train.main(["--data", str(tokens), "--output_dir", str(output), *OPTIONS, *more])


@pytest.fixture(scope="module")
def trained(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(tokens, folder, "--train_from_scratch", *SMALL, "--max_steps", "4") == 0
    return folder


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_token_file_keeps_codes_and_words(tokens: Path) -> None:
    store = open_store(tokens)
    assert store.info.family == "moshi"
    assert verify(tokens) == []
    split = store.splits["val"]
    assert split.array("codes", 0).shape == (np.ceil(6 / 0.08), 16)
    said = json.loads((tokens.parent / "val/0.json").read_text())["alignments"]
    assert split.array("words", 0)[:, :2].tolist() == [times for _, times, _ in said]


def test_another_rule_encodes_no_sound(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tokens.hdf5"
    output.write_bytes(tokens.read_bytes())
    argv = [*encoding(tokens.parent, output), "--interleave", "characters"]
    assert pretokenize.main(argv) == 0
    assert "0 clips encoded now" in capsys.readouterr().out
    before, after = open_store(tokens), open_store(output)
    assert before.info.content_fingerprint != after.info.content_fingerprint
    assert (before.splits["val"].array("codes", 1) == after.splits["val"].array("codes", 1)).all()


def test_validation_is_text_plus_codes_per_frame(trained: Path) -> None:
    metrics = rows(trained, "val")[-1]
    parts = ("text", "text_padding", "text_end", "c0", "acoustic")
    assert all(metrics[f"val_{part}"] > 0 for part in parts)
    assert metrics["val_loss"] < rows(trained, "val")[0]["val_loss"]


def test_samples_are_stereo_with_the_users_channel(tokens: Path, trained: Path) -> None:
    sounds = sorted(trained.glob("samples/*/step_000004.wav"))
    assert len(sounds) == 2
    wave, _ = soundfile.read(sounds[0])
    assert wave.shape == ((25 + 12) * 1280, 2)
    first = soundfile.read(sounds[0].with_name("step_000000.wav"))[0]
    assert (wave[:, 1] == first[:, 1]).all()
    assert (wave[:, 0] != first[:, 0]).any()
    facts = json.loads(sounds[0].with_suffix(".json").read_text())
    assert isinstance(facts["answer"], str)
    assert 0 < facts["real_user_share"] + facts["real_moshi_share"] < 2
    assert facts["user_share"] == facts["real_user_share"]
    assert facts["prompt_sec"] == 2.0
    said = "".join(word for start, word in facts["captions"] if start >= 2).split()
    assert " ".join(said) == facts["answer"]
    # What was really said after each prompt is the reference beside it.
    real = {path.stem for path in trained.glob("samples/reference/*.wav")}
    assert real == {path.parent.name for path in sounds}
    real_facts = json.loads((trained / f"samples/reference/{facts['prompt']}.json").read_text())
    assert real_facts["words_per_sec"] == facts["real_words_per_sec"] > 0
    assert real_facts["captions"][0] == facts["captions"][0]


def test_samples_are_heard_and_shown_with_running_text(tokens: Path, tmp_path: Path) -> None:
    options = (
        "--train_from_scratch",
        *SMALL,
        "--max_steps",
        "1",
        "--gen_asr",
        "pocketsphinx:en-us",
    )
    assert run(tokens, tmp_path, *options, "--wandb", "offline") == 0
    found = [json.loads(p.read_text()) for p in tmp_path.glob("samples/*/step_000001.json")]
    assert all(isinstance(facts["heard"], str) for facts in found)
    # The sounds of this test are no words; where no word is written, there is nothing to compare.
    assert any(facts.get("real_wer", 0) > 0 for facts in found)
    (mirrored,) = offline_runs(tmp_path)
    paths = [row["players.path"] for row in mirrored.history if "players.path" in row]
    page = (mirrored.folder / "files" / paths[-1]).read_text()
    assert page.count("<audio") == page.count('src="data:audio/mpeg') == 4
    assert 'class="answer captions"' in page
    assert page.count("after a prompt of 2.0 s, shaded") == 4


def test_resumed_run_equals_uninterrupted(tokens: Path, trained: Path, tmp_path: Path) -> None:
    scratch = ("--train_from_scratch", *SMALL, "--max_steps", "4")
    check_resume(lambda folder: run(tokens, folder, *scratch), tmp_path / "run", trained)


def test_sweep_runs_unchanged(tokens: Path, trained: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "learning_rate: {type: float, min: 1e-4, max: 1e-2, log: true}\n"
        "text_padding_weight: {type: categorical, values: [0.3, 0.5]}\n"
        "window_sec: {type: categorical, values: [2.0, 4.0]}\n"
    )
    options = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True))
    for name in ("--learning_rate", "--window_sec"):
        del options[name]
    argv = [word for pair in options.items() for word in pair]
    argv += ["--data", str(tokens), "--output_dir", str(tmp_path / "sweep")]
    argv += ["--sweep_config", str(space), "--n_trials", "2", "--n_epochs", "1"]
    argv += ["--val_dialogues", "1", "--constraint", "val_overlap_error<=1"]
    argv += ["--model_name_or_checkpoint_path", str(trained)]
    assert sweep.main(argv) == 0
    summary = json.loads((tmp_path / "sweep/summary.json").read_text())
    assert summary["best"] is not None
    assert all(0 <= trial["metrics"]["val_moshi_share"] <= 1 for trial in summary["trials"])
    assert "nats per frame" in (tmp_path / "sweep/report.html").read_text()


def test_recordings_are_continued_and_answered(tokens: Path, trained: Path, tmp_path: Path) -> None:
    folder, out = tokens.parent, tmp_path / "out"
    argv = ["--model", str(trained), "--output", str(out), "--device", "cpu", "--max_sec", "2"]
    sounds = ["--dialogue", str(folder / "val/0.wav"), "--user", str(folder / "val/1.wav")]
    assert generate([*argv, *sounds, "--prompt_sec", "1"]) == 0
    durations = [soundfile.info(path).duration for path in sorted(out.glob("*.wav"))]
    np.testing.assert_allclose(durations, [3.0, 2.0], atol=0.08)
    facts = json.loads(next(out.glob("002-*.json")).read_text())
    assert (facts["temperature"], facts["text_topk"]) == (0.8, 25)


def test_test_set_is_continued_and_its_tokens_kept(
    tokens: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--model", str(trained), "--device", "cpu", "--prompt_sec", "2", "--max_sec", "1"]
    argv += ["--test_data", str(tokens), "--test_split", "train", "--save_tokens"]
    assert generate([*argv, "--output", str(out), "--test_dialogues", "2"]) == 0
    split = open_store(tokens).splits["train"]
    first = sorted(out.glob("*.npy"))[0]
    saved = np.load(first, allow_pickle=False)
    known, made = round(2 / 0.08), round(1 / 0.08)
    assert saved.shape == (17, made)
    codes = split.array("codes", 0)
    assert (saved[9:] == codes[known : known + made, 8:].T).all()  # the user, as recorded
    # What was made is not made again, and the rest is.
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    capsys.readouterr()
    assert generate([*argv, "--output", str(out), "--resume", "--batch_size", "2"]) == 0
    assert "2 samples are in" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(out.glob("*.npy"))) == 5
    # A share of the prompts has the same samples.
    part = tmp_path / "part"
    assert generate([*argv, "--output", str(part), "--shard", "2/5"]) == 0
    (only,) = part.glob("*.npy")
    assert (np.load(only) == np.load(sorted(out.glob("*.npy"))[1])).all()
    # Tokens to sound: the part of the sample behind its prompt, up to the codec's memory.
    wavs = tmp_path / "wavs"
    assert data([str(tokens), "--decode_tokens", str(out), "--output", str(wavs)]) == 0
    sound, rate_hz = soundfile.read(wavs / f"{first.stem}.wav")
    assert sound.shape == (round(made * 0.08 * rate_hz), 2)
    np.save(tmp_path / "wavs/odd.npy", np.zeros((3, 4), np.int64))
    assert data([str(tokens), "--decode_tokens", str(wavs)]) == 2
    assert "odd.npy: has 3 rows of tokens" in capsys.readouterr().err


def test_test_set_of_another_tokenizer_is_refused(
    tokens: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.hdf5"
    argv = [*encoding(tokens.parent, other), "--fit_tokenizer", "310"]
    assert pretokenize.main(argv) == 0
    assert generate(["--model", str(trained), "--test_data", str(other)]) == 2
    assert "another tokenizer_fingerprint made its tokens" in capsys.readouterr().err


def test_adapters_train_and_both_exports_are_read_back(
    tokens: Path, trained: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lora"
    argv = ["--model_name_or_checkpoint_path", str(trained), "--method", "lora", "--max_steps", "2"]
    argv += ["--lora_rank", "4", "--lora_alpha", "8", "--lora_targets", "attention,heads"]
    assert run(tokens, lora, *argv) == 0
    assert export([str(lora), "--format", "moshi-lora"]) == 0
    assert export([str(lora), "--format", "moshi"]) == 0
    pairs = load_file(lora / "export-moshi-lora/lora.safetensors")
    assert not pairs["transformer.layers.0.gating.linear_in.lora_B.weight"].any()
    assert pairs["transformer.layers.0.self_attn.in_projs.0.lora_B.weight"].any()
    config = json.loads((lora / "export-moshi/config.json").read_text())
    assert config["lora"] is False
    assert (lora / "export-moshi" / config["tokenizer_name"]).is_file()
    record = json.loads((lora / "export-moshi/speech.json").read_text())
    assert record["tokenizer"] == config["tokenizer_name"]  # no path of this machine
    saved = yaml.safe_load((lora / "config.yaml").read_text())
    assert saved["delays"] == config["delays"]
    # A training starts from the export.
    again = ["--model_name_or_checkpoint_path", str(lora / "export-moshi"), "--max_steps", "1"]
    assert run(tokens, tmp_path / "again", *again) == 0
    first, last = (rows(folder, "val") for folder in (tmp_path / "again", lora))
    assert first[0]["val_loss"] == pytest.approx(last[-1]["val_loss"], abs=1e-5)


def test_embeddings_train_beside_adapters(tokens: Path, trained: Path, tmp_path: Path) -> None:
    lora, before = (
        tmp_path / "lora",
        load_file(trained / "checkpoints/step_000004/model.safetensors"),
    )
    argv = ["--model_name_or_checkpoint_path", str(trained), "--method", "lora", "--lora_rank", "4"]
    argv += ["--lora_alpha", "8", "--lora_embeddings", "--learning_rate", "1e-2"]
    argv += ["--max_steps", "4"]
    assert run(tokens, lora, *argv) == 0
    weights = "adapter_model.safetensors"
    check_resume(lambda folder: run(tokens, folder, *argv), tmp_path / "killed", lora, weights)
    assert export([str(lora), "--format", "moshi-lora"]) == 0  # which compares logits
    pairs = load_file(lora / "export-moshi-lora/lora.safetensors")
    embeddings = {name for name in before if "emb" in name}
    assert {name for name in pairs if ".lora_" not in name} == embeddings
    assert all(not torch.equal(pairs[name], before[name]) for name in embeddings)
    saved = json.loads((lora / "checkpoints/step_000004/adapter_config.json").read_text())
    assert saved["modules_to_save"] == sorted(name.rpartition(".")[0] for name in embeddings)
    # As a base for another run.
    base = f"{trained}+{lora / 'export-moshi-lora'}"
    again = ["--model_name_or_checkpoint_path", base, "--max_steps", "1", "--method", "full"]
    assert run(tokens, tmp_path / "again", *again) == 0
    first, last = (rows(folder, "val") for folder in (tmp_path / "again", lora))
    assert first[0]["val_loss"] == pytest.approx(last[-1]["val_loss"], abs=1e-4)


@pytest.mark.skipif(not is_installed(), reason="the moshi package is not installed")
def test_moshi_package_reads_the_export(trained: Path) -> None:
    assert export([str(trained), "--format", "moshi"]) == 0
    card = (trained / "export-moshi/README.md").read_text()
    assert "read back by the moshi package" in card
    assert "8 greedy frames are the same" in card


def test_evaluation_measures_every_part(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [str(trained), "--asr", "none", "--embedder", "none", "--output", str(out)]
    assert evaluate([*argv, "--device", "cpu"]) == 0
    found = json.loads((out / "evaluation.json").read_text())
    assert {"nats_c0", "nats_text"} <= found["rows"][0]["on_data"].keys()


def test_mono_is_refused_with_the_way_out_or_has_a_silent_user(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("train", 2), ("val", 1)):
        write_dialogues(tmp_path, name, count)
        for path in (tmp_path / name).glob("*.wav"):
            wave, _ = soundfile.read(path)
            soundfile.write(path, wave[:, 0], RATE_HZ)
    argv = encoding(tmp_path, tmp_path / "mono.hdf5")
    assert pretokenize.main(argv) == 1
    assert "--mono silent_user" in (tmp_path / "mono.hdf5.rejected.jsonl").read_text()
    assert pretokenize.main([*argv, "--mono", "silent_user"]) == 0
    codes = open_store(tmp_path / "mono.hdf5").splits["val"].array("codes", 0)
    assert len(np.unique(codes[:, 8:], axis=0)) == 1
    assert len(np.unique(codes[:, :8], axis=0)) > 10


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--val_window_sec", "300"], "over the context of the model"),
        (["--delays", "[0]", "--train_from_scratch"], "delays"),
        (
            ["--lora_embeddings", "--method", "full"],
            "lora_embeddings trains embeddings beside adapters; method is full",
        ),
        (["--method", "lora", "--lora_targets", "q_proj"], "lora_targets: 'q_proj' is none of"),
    ],
)
def test_bad_options_are_named(
    tokens: Path,
    tmp_path: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    says: str,
) -> None:
    base = ["--model_name_or_checkpoint_path", str(trained)]
    base = [] if "--train_from_scratch" in argv else base
    assert run(tokens, tmp_path / "run", *base, *argv) == 2
    assert says in capsys.readouterr().err


def test_other_family_is_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(tokens), "--family", "csm", "--output_dir", str(tmp_path / "run")]
    assert train.main(argv) == 2
    assert "was pretokenised for the family moshi, not for csm" in capsys.readouterr().err


def test_base_of_other_tokens_is_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokens, tmp_path / "run") == 2
    assert "--train_from_scratch" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["full", "lora"])
def test_user_is_predicted_invented_and_cut_off(
    tokens: Path, trained: Path, tmp_path: Path, method: str
) -> None:
    folder, out = tmp_path / "both", tmp_path / "out"
    argv = ["--model_name_or_checkpoint_path", str(trained), "--user_stream", "--max_steps", "2"]
    assert run(tokens, folder, *argv, "--method", method) == 0
    (row,) = rows(folder, "train")
    assert row["user_c0"] > 0
    before, after = (rows(one, "val") for one in (trained, folder))
    assert after[0]["val_loss"] == pytest.approx(before[-1]["val_loss"], abs=1e-5)
    # Each opening is continued against its user, and by both sides.
    facts = [json.loads(p.read_text()) for p in folder.glob("samples/*/step_000002.json")]
    is_alone = [one["text"].endswith("(both sides generated)") for one in facts]
    hears_real = [one["user_share"] == one["real_user_share"] for one in facts]
    assert (len(facts), sum(is_alone)) == (4, 2)
    assert all(hears_real[place] for place, alone in enumerate(is_alone) if not alone)
    sound = str(tokens.parent / "val/0.wav")
    argv = ["--model", str(folder), "--dialogue", sound, "--prompt_sec", "1", "--max_sec", "1"]
    assert generate([*argv, "--invent_user", "--output", str(out), "--device", "cpu"]) == 0
    wave, _ = soundfile.read(next(out.glob("*.wav")))
    assert len(wave) == (12 + 12) * 1280
    assert export([str(folder), "--format", "moshi"]) == 0
    config = json.loads((folder / "export-moshi/config.json").read_text())
    assert (config["n_q"], config["dep_q"]) == (16, 8)


def test_token_file_is_listened_to(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = tmp_path / "a.wav"
    assert data([str(tokens), "--split", "val", "--decode", "0", "--output", str(sound)]) == 0
    assert "6.00 s" in capsys.readouterr().out
    assert soundfile.info(sound).channels == 2
    page = tmp_path / "page"
    assert data([str(tokens), "--listen", "2", "--output", str(page)]) == 0
    assert (page / "index.html").is_file()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on clips of one speaker, with texts and tags instead of words with times."""
    folder = tmp_path_factory.mktemp("spoken")
    for name, count in (("train", 4), ("val", 2)):
        path = write_dialogues(folder, name, count)
        clips = []
        for number, row in enumerate(map(json.loads, path.read_text().splitlines())):
            sound = folder / row["path"]
            wave, _ = soundfile.read(sound)
            # Half of the files have one channel, half two that are alike.
            left = wave[:, 0] if number % 2 else np.stack([wave[:, 0]] * 2, axis=1)
            soundfile.write(sound, left, RATE_HZ)
            sound.with_suffix(".json").unlink()
            text = " ".join(WORDS[number : number + 3])
            clips.append({**row, "text": text, "emotion": ("calm", "angry")[number % 2]})
        path.write_text("".join(f"{json.dumps(clip)}\n" for clip in clips))
    more = ["--mono", "silent_user", "--interleave", "shift", "--lead_sec", "0.8"]
    template = ["--text_template", "<{emotion}>?{text}"]
    tokens = folder / "tokens.hdf5"
    assert pretokenize.main([*encoding(folder, tokens), *more, *template]) == 0
    assert verify(tokens) == []
    argv = ["--train_from_scratch", *SMALL, "--max_steps", "2", "--gen_every", "0"]
    assert run(tokens, folder / "run", *argv) == 0
    return folder / "run"


def test_texts_without_word_times_are_spread_behind_the_tag(spoken: Path) -> None:
    split = open_store(spoken.parent / "tokens.hdf5").splits["train"]
    for row in range(len(split)):
        tag, *words = split.array("words", row)[:, 0].tolist()
        assert tag == 0
        assert len(words) == 3
        assert words[0] >= 0.8
        codes = split.array("codes", row)
        assert len(np.unique(codes[:, 8:], axis=0)) == 1
        assert len(codes) == pytest.approx((split.durations_sec[row] + 0.8) / 0.08, abs=1)


def test_moshi_speaks_texts_with_tags(spoken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["--model", str(spoken), "--text", "hello you", "--text", "fine", "--device", "cpu"]
    argv += ["--emotion", "angry", "--max_sec", "40", "--batch_size", "2"]
    assert generate([*argv, "--output", str(out)]) == 0
    for path in out.glob("*.json"):
        facts = json.loads(path.read_text())
        assert facts["is_complete"]
        assert facts["tags"] == {"emotion": "angry"}
        assert 1.0 < facts["seconds"] < 40


def test_unknown_tag_and_context_are_refused(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(spoken), "--device", "cpu", "--output", str(tmp_path / "out")]
    assert generate([*argv, "--text", "hello", "--emotion", "sad"]) == 2
    assert "never trained on it, but on" in capsys.readouterr().err
    prompts = tmp_path / "prompts.json"
    clip = {"path": str(spoken.parent / "val/0.wav"), "text": "hello"}
    prompts.write_text(json.dumps([{"text": "fine", "context": [clip]}]))
    assert generate([*argv, "--prompts", str(prompts)]) == 2
    assert "Moshi takes no context clips" in capsys.readouterr().err


@pytest.mark.slow
def test_spoken_texts_are_evaluated(spoken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [str(spoken), "--asr", "none", "--embedder", "none", "--output", str(out)]
    assert evaluate([*argv, "--device", "cpu", "--max_sec", "4", "--base", "none"]) == 0
    model, *_ = json.loads((out / "evaluation.json").read_text())["rows"]
    assert model["kind"] == "model"
    assert {clip["tags"]["emotion"] for clip in model["clips"]} == {"calm", "angry"}


def test_adapters_side_by_side_equal_runs_alone(
    tokens: Path, trained: Path, tmp_path: Path
) -> None:
    runs: list[dict[str, Any]] = [
        {"depth_fraction": 0.5, "lora_alpha": 8},
        {"batch_size": 1, "depth_fraction": 0.25, "seed": 7},
        {"lora_rank": 2, "lora_rslora": True, "learning_rate": 1e-3},
    ]
    base = {"data": str(tokens), "model_name_or_checkpoint_path": str(trained)}
    train_side_by_side(
        MoshiConfig, runs, tmp_path, **base, window_sec=4.0, min_window_sec=1.0, batch_size=2
    )
