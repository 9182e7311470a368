"""Where Sesame's code is looked for, and what is done with the wrong one."""

import sys
from pathlib import Path

import pytest

from csm_ft.errors import CheckError, ConfigError
from csm_ft.families.csm.export.probe import difference, logits_of, random_probes
from csm_ft.families.csm.export.sesame import (
    REFERENCE,
    find_sesame,
    reload,
    sesame_config,
    write_model,
)
from csm_ft.families.csm.size import PRESETS, CsmSize
from tests.helpers.splits import SIZE, make_model

STAND_IN = Path(__file__).resolve().parents[3] / "sesame"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CSM_REPO_PATH", raising=False)


def test_sesames_code_reads_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, probes = make_model(seed=4), random_probes(SIZE)
    write_model(tmp_path, model)
    logits, who = reload(tmp_path, probes)
    assert who == "this program's own loader"
    assert difference(logits_of(model, probes), logits).is_same
    monkeypatch.setenv("CSM_REPO_PATH", str(STAND_IN))
    logits, who = reload(tmp_path, probes)
    assert who == REFERENCE
    assert difference(logits_of(model, probes), logits).is_same


def test_sesames_generation_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation that gives other codes than its own logits rank first."""
    write_model(tmp_path, make_model())
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    text = (STAND_IN / "models.py").read_text()
    assert text.count("self._embed_audio(k, codes[-1])") == 1
    (wrong / "models.py").write_text(
        text.replace("self._embed_audio(k, codes[-1])", "self._embed_audio(0, codes[-1])")
    )
    monkeypatch.setenv("CSM_REPO_PATH", str(wrong))
    with pytest.raises(
        CheckError, match=r"generate_frame gives code \d+ in codebook [23], its logits"
    ):
        reload(tmp_path, random_probes(SIZE))


def test_unpublished_sizes_get_names() -> None:
    published = CsmSize(PRESETS["llama-1B"], PRESETS["llama-100M"], 128_256, 2051, 32)
    assert sesame_config(published) == {
        "backbone_flavor": "llama-1B",
        "decoder_flavor": "llama-100M",
        "text_vocab_size": 128_256,
        "audio_vocab_size": 2051,
        "audio_num_codebooks": 32,
    }
    config = sesame_config(SIZE)
    assert (config["backbone_flavor"], config["decoder_flavor"]) == (
        "backbone-2x32",
        "decoder-1x16",
    )
    assert CsmSize.from_json(config, "x") == SIZE


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no models.py in this folder"), ("import nothing_like_it", "cannot be imported")],
)
def test_wrong_repo_path_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    if content:
        (tmp_path / "models.py").write_text(content)
    monkeypatch.setenv("CSM_REPO_PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=f"CSM_REPO_PATH=.*{message}"):
        find_sesame()


def test_only_sesames_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_sesame() is None
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "models.py").write_text("raise SystemExit('somebody else imported')")
    assert find_sesame() is None
    (tmp_path / "csm").mkdir()
    (tmp_path / "csm/__init__.py").touch()
    assert find_sesame() is None
    (tmp_path / "csm/models.py").write_text((STAND_IN / "models.py").read_text())
    found = find_sesame()
    assert found is not None
    assert found.__name__ == "csm.models"
    for name in ("csm", "csm.models"):
        del sys.modules[name]
