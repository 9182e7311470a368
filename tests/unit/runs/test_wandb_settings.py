"""Who decides whether and where W&B records: option, environment, settings files, in this order."""

import socket
from pathlib import Path

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.runs.wandb_settings import (
    choose_reachable_wandb_mode,
    choose_wandb_mode,
    choose_wandb_project,
)
from csm_ft.sweep.config import SweepConfig


@pytest.fixture
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize(
    ("environment", "wanted", "mode"),
    [
        ({}, "auto", "offline"),
        ({"WANDB_API_KEY": "k"}, "auto", "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "auto", "offline"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "online", "off"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "online"}, "offline", "offline"),
        ({"WANDB_MODE": "online"}, "auto", "online"),
        ({"WANDB_MODE": "online"}, "off", "off"),
        ({"WANDB_API_KEY": "k"}, "offline", "offline"),
    ],
)
def test_environment_decides_the_mode(
    environment: dict[str, str], wanted: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose_wandb_mode(wanted) == mode


@pytest.mark.usefixtures("no_login")
def test_login_counts_as_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert choose_wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert choose_wandb_mode("auto") == "offline"


def write_settings(folder: Path, **values: str) -> None:
    folder.mkdir(exist_ok=True)
    lines = [f"{name} = {value}\n" for name, value in values.items()]
    (folder / "settings").write_text("".join(["[default]\n", *lines]))


@pytest.mark.usefixtures("no_login")
def test_settings_files_decide_where_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    write_settings(tmp_path / "user", mode="disabled", project="of the user")
    assert choose_wandb_mode("auto") == "off"
    write_settings(tmp_path / "wandb", mode="offline")
    assert choose_wandb_mode("auto") == "offline", "the working folder's file counts first"
    assert choose_wandb_mode("online") == "online", "the option was given"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert choose_wandb_mode("auto") == "online"


@pytest.mark.usefixtures("no_login")
def test_a_project_in_a_settings_file_wins_over_our_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = (TrainConfig().wandb_project, SweepConfig().wandb_project)
    assert [choose_wandb_project(name) for name in defaults] == list(defaults)
    write_settings(tmp_path / "user", project="of the user")
    assert [choose_wandb_project(name) for name in defaults] == [None, None]
    assert choose_wandb_project("given") == "given"
    monkeypatch.setenv("WANDB_PROJECT", "of the environment")
    assert choose_wandb_project("given") is None


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize("text", ["no section", "[default\nmode", "[default]\nmode = 50%\n"])
def test_a_broken_settings_file_stops_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/settings").write_text(text)
    assert choose_wandb_mode("auto") == "offline"


@pytest.mark.usefixtures("no_login")
def test_the_server_of_a_settings_file_is_the_one_logged_in_to(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    write_settings(tmp_path / "user", base_url="https://wandb.example.org")
    assert choose_wandb_mode("auto") == "offline"


@pytest.mark.usefixtures("no_login")
def test_a_conflict_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_wandb_mode("online") == "offline"
    rule = "of --wandb online and WANDB_MODE=offline the stricter counts"
    assert capsys.readouterr().out == f"W&B is offline: {rule}\n"
    assert choose_wandb_mode("offline") == "offline"
    assert choose_wandb_mode("auto") == "offline"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_login")
def test_a_server_that_takes_no_connection_is_told_once_and_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        assert choose_reachable_wandb_mode("online") == "online"
        monkeypatch.setenv("WANDB_BASE_URL", "http://nowhere.invalid")
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{port}")
        assert choose_reachable_wandb_mode("online") == "online", "by the proxy"
    assert capsys.readouterr().out == ""
    assert choose_reachable_wandb_mode("online") == "offline"
    told = " ".join(capsys.readouterr().out.split())
    assert told == (
        "W&B: nowhere.invalid takes no connection; recording offline, send later with `wandb sync`"
    )
    assert [choose_reachable_wandb_mode(mode) for mode in ("offline", "off")] == ["offline", "off"]
    assert capsys.readouterr().out == ""
