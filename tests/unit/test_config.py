"""One flat config: YAML key = flag = sweep parameter."""

import os
from pathlib import Path

import pytest
import yaml

from csm_ft.cli import parse_args, peek
from csm_ft.config.base import Options, build, extra, load_env_files
from csm_ft.data.__main__ import DataConfig
from csm_ft.errors import ConfigError
from csm_ft.export.__main__ import ExportOptions
from csm_ft.families import read_config
from csm_ft.families.csm.config import CsmConfig, CsmGenerateConfig, CsmPretokenizeConfig
from csm_ft.families.moonshine.config import (
    MoonshineConfig,
    MoonshineGenerateConfig,
    MoonshinePretokenizeConfig,
)
from csm_ft.families.moshi.config import (
    MoshiConfig,
    MoshiGenerateConfig,
    MoshiPretokenizeConfig,
)
from csm_ft.report.config import ReportConfig
from csm_ft.sweep.config import SweepConfig

ROOT = Path(__file__).resolve().parents[2]


def parse(*argv: str) -> CsmConfig:
    return parse_args(CsmConfig, argv, program="train.py", description="")


def test_flags_beat_yaml_whatever_the_order(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("learning_rate: 1e-4\nbatch_size: 4\n")
    for argv in (
        ("--config", str(path), "--batch_size", "2"),
        ("--batch_size", "2", "--config", str(path)),
    ):
        config = parse(*argv)
        assert (config.learning_rate, config.batch_size) == (1e-4, 2)


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        ([], True),
        (["true"], True),
        (["false"], False),
        (["False"], False),
        (["no"], False),
        (["on"], True),
    ],
)
def test_booleans_work_bare_and_with_a_value(spelling: list[str], value: bool) -> None:
    assert parse("--train_from_scratch", *spelling).train_from_scratch is value


def test_use_amp_false_is_false() -> None:
    assert parse("--use_amp").dtype == "bf16"
    assert parse("--use_amp", "False").dtype == "fp32"
    assert build(CsmConfig, {"use_amp": True}).dtype == "bf16"


def test_a_list_option_given_twice_keeps_both() -> None:
    argv = ("--user", "a.wav", "b.wav", "--user", "c.wav")
    config = parse_args(
        MoshiGenerateConfig, (*argv, "--model", "exp/a"), program="", description=""
    )
    assert config.user == ["a.wav", "b.wav", "c.wav"]


def test_the_public_trainers_yaml_runs_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "finetune_param_defaults.yaml"
    path.write_text(
        "batch_size: 8\ngrad_acc_steps: 1\nlearning_rate: 3e-5\nmax_grad_norm: 1.3\nwarmup_steps:"
        " 1000\nweight_decay: 0.002\nlr_decay: linear\ndecoder_loss_weight: 0.5\n"
    )
    config = parse("--config", str(path))
    assert (config.learning_rate, config.warmup_steps, config.decoder_loss_weight) == (
        3e-5,
        "1000",
        0.5,
    )


def test_the_public_trainers_flags_are_understood() -> None:
    flags = """
        --data d.hdf5 --output_dir o --model_name_or_checkpoint_path sesame/csm-1b --train_from_scratch --partial_data_loading
        --wandb_project p --wandb_name n --wandb_reinit --log_every 10 --val_every 100 --save_every 1000 --gen_every 500
        --gen_speaker 999 --use_amp --n_epochs 25
    """
    config = parse(*flags.split(), "--gen_sentence", "Marie aime les pommes et les poires.")
    assert config.gen_sentences == ["Marie aime les pommes et les poires."]
    assert (config.partial_data_loading, config.gen_every, config.n_epochs) == (True, "500", 25)


def test_sentences_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("One.\n\nTwo.\n")
    assert parse("--gen_sentences", str(path)).gen_sentences == ["One.", "Two."]
    with pytest.raises(ConfigError, match="no such file"):
        parse("--gen_sentences", str(tmp_path / "missing.txt"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lerning_rate", "1"], "did you mean --learning_rate"),
        (["--learn", "1"], "unknown flag"),
        (["--learning_rate", "fast"], "learning_rate: 'fast' is not valid"),
        (["--learning_rate", "nan"], "learning_rate"),
        (["--batch_size", "0"], "batch_size 0 is not above 0"),
        (["--batch_size", "2.5"], "batch_size: '2.5' is not valid"),
        (["--val_every", "3 weeks"], "not a duration"),
        (["--lr_decay", "step"], "'linear', 'cosine'"),
        (["--decoder_loss_weight", "1.5"], "decoder_loss_weight 1.5 is above 1"),
        (["--depth_fraction", "0"], "depth_fraction 0 is not above 0"),
        (["--config", "nowhere.yaml"], "no such file"),
    ],
)
def test_mistakes_are_named_with_the_way_out(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnin_rate: 1", "did you mean learning_rate"),
        ("[1, 2]", "this is a list"),
        ("a: [", "not readable as YAML"),
        ("- x", "this is a list"),
    ],
)
def test_mistakes_in_yaml_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        parse("--config", str(path))
    assert "bad.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "mode"), [("off", "off"), ("no", None), ("offline", "offline"), ("auto", "auto")]
)
def test_unquoted_off_in_yaml_is_a_word(tmp_path: Path, text: str, mode: str | None) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"wandb: {text}\n")
    assert parse("--config", str(path)).wandb == (mode or "off")


def test_resolved_config_round_trips_through_yaml(tmp_path: Path) -> None:
    config = parse(
        "--learning_rate", "1.7e-5", "--gen_sentences", "Olá: «mundo»", "b", "--warmup_steps", "3%"
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert parse("--config", str(path)) == config


def test_the_fingerprint_names_the_training_only() -> None:
    base = parse()
    assert (
        parse("--log_every", "5", "--wandb", "off", "--output_dir", "x").fingerprint()
        == base.fingerprint()
    )
    assert parse("--learning_rate", "1e-5").fingerprint() != base.fingerprint()


def test_help_names_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for name, field in CsmConfig.model_fields.items():
        assert f"--{name}" in text
        assert field.description


def test_every_yaml_under_configs_is_valid() -> None:
    found = [
        p
        for p in sorted((ROOT / "configs").rglob("*.yaml"))
        if not any(word in p.name for word in ("sweep", "learning_curve", "pretokenize"))
    ]
    assert found
    for path in found:
        read_config(path)


def test_finetune_yaml_spells_out_the_defaults() -> None:
    values = yaml.safe_load((ROOT / "configs" / "finetune.yaml").read_text())
    assert build(CsmConfig, values) == CsmConfig()


PROGRAMS = (
    *(CsmConfig, CsmPretokenizeConfig, CsmGenerateConfig),
    *(MoonshineConfig, MoonshinePretokenizeConfig, MoonshineGenerateConfig),
    *(MoshiConfig, MoshiPretokenizeConfig, MoshiGenerateConfig),
    *(SweepConfig, ReportConfig, ExportOptions, DataConfig),
)
PATHS = [
    (config_class, name)
    for config_class in PROGRAMS
    for name, field in config_class.model_fields.items()
    if extra(field)["path"]
]


def test_every_option_of_a_path_is_marked() -> None:
    marked = {name for _, name in PATHS}
    assert marked == {
        *("data", "output_dir", "model_name_or_checkpoint_path", "gen_prompts", "gen_sentences"),
        *("train_data", "val_data", "output", "codec_source", "tokenizer", "model", "prompts"),
        *("context", "audio", "sweep_config", "sweep_dir", "run", "path", "judge_prompts"),
        *(
            "words_folder",
            "decode_tokens",
            "dialogue",
            "test_data",
            "user",
            "replay",
            "canary",
            "status",
            "stop",
            "warm_from",
            "votes",
        ),
    }


@pytest.mark.parametrize(("config_class", "name"), PATHS)
def test_tilde_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, config_class: type[Options], name: str
) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    needed = {"train_data": "a.json", "model": "m", "run": "r", "path": "p"}
    values = {key: value for key, value in needed.items() if key in config_class.model_fields}
    is_list = str(config_class.model_fields[name].annotation).startswith("list")
    path = "~/x:0.5" if name == "replay" else "~/x"  # DATA:SHARE
    config = build(config_class, {**values, name: [path] if is_list else path})
    wanted = [path.replace("~", "/home/anna")] if is_list else path.replace("~", "/home/anna")
    assert getattr(config, name) == wanted


def test_tilde_in_yaml_and_config_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("data: ~/tokens.hdf5\nfamily: csm\n")
    assert parse("--config=~/a.yaml").data == str(tmp_path / "tokens.hdf5")
    assert peek(["--config=~/a.yaml"], ("data",)) == {"data": str(tmp_path / "tokens.hdf5")}


def test_tilde_in_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"HOME": "/home/anna", "BACKBONE_FLAVOR": "tiny"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("CSM_REPO_PATH=~/csm\nBACKBONE_FLAVOR=llama-1B\n")
    load_env_files()
    assert os.environ["CSM_REPO_PATH"] == "/home/anna/csm"
    assert os.environ["BACKBONE_FLAVOR"] == "tiny", "the environment wins"


@pytest.mark.parametrize("name", ["a.yaml", "b.YML"])
def test_lone_yaml_is_the_config(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("batch_size: 3\ndata: x.hdf5\n")
    assert parse(str(path)).batch_size == 3
    assert peek([str(path)], ("data",)) == {"data": "x.hdf5"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["my run.yaml", "--batch_size", "3"], "did you mean --config 'my run.yaml'"),
        (["tokens.hdf5"], "unknown argument 'tokens.hdf5'; options are --name value"),
        (["batch_size", "3"], "did you mean --batch_size"),
    ],
)
def test_bare_words_are_refused_with_a_hint(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)
