"""Files of the model hub: names, the cache, and what is said when a file is not given."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
)

from csm_ft import hub
from csm_ft.errors import GatedError, HubError


def answer(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


def failing(error: Exception) -> Any:
    def download(*_: Any) -> None:
        raise error

    return download


def test_hub_names_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp/run").mkdir(parents=True)
    names = ("sesame/csm-1b", "exp/run", "./a/b", "/a", "a", "a/b/c", "../a", 'a/b")`', "a/b\n")
    assert [name for name in names if hub.is_hub_name(name)] == ["sesame/csm-1b"]


def test_cached_files_need_no_network(hub: Path) -> None:
    from csm_ft.hub import cached, fetch, fetch_if_present

    path = fetch("sesame/csm-1b", "config.json", otherwise="give a folder")
    assert path.is_file()
    assert cached("sesame/csm-1b", "config.json") == path
    assert fetch_if_present("sesame/csm-1b", "config.json", otherwise="") == path
    assert cached("sesame/csm-1b", "nothing.json") is None


def test_offline_message_names_the_ways_out(hub: Path) -> None:
    from csm_ft.hub import fetch

    wanted = r"a/b is not on this disk, .* for its x\.json .*HF_HUB_OFFLINE.*, or give a folder"
    with pytest.raises(HubError, match=wanted):
        fetch("a/b", "x.json", otherwise="give a folder")


def test_gated_message_names_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hf_hub_download", failing(GatedRepoError("no", response=answer(403))))
    wanted = r"a/b is gated: accept its terms at https://huggingface\.co/a/b .*, or give a folder"
    with pytest.raises(GatedError, match=wanted):
        hub.fetch("a/b", "x.json", otherwise="give a folder")


def test_only_known_absence_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EntryNotFoundError("no such file")
    monkeypatch.setattr(hub, "hf_hub_download", failing(absent))
    assert hub.fetch_if_present("a/b", "x.json", otherwise="") is None
    offline = LocalEntryNotFoundError("offline")
    monkeypatch.setattr(hub, "hf_hub_download", failing(offline))
    with pytest.raises(HubError):
        hub.fetch_if_present("a/b", "x.json", otherwise="")


def test_weights_in_the_cache_are_found(hub: Path) -> None:
    from csm_ft.hub import has_weights

    assert has_weights("sesame/csm-1b")
    assert not has_weights("sesame/csm-2b")


def test_access_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "auth_check", lambda _: None)
    assert hub.access_problem("sesame/csm-1b") == ""
    gated = GatedRepoError("no", response=answer(403))
    monkeypatch.setattr(hub, "auth_check", failing(gated))
    assert "https://huggingface.co/sesame/csm-1b" in hub.access_problem("sesame/csm-1b")
    monkeypatch.setattr(hub, "auth_check", failing(httpx2.ConnectError("no name")))
    assert "cannot be reached (ConnectError)" in hub.access_problem("sesame/csm-1b")
