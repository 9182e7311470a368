"""The command's own decisions: where to write, and over what."""

import json
from pathlib import Path

import pytest

from csm_ft.errors import ConfigError
from csm_ft.export.__main__ import main
from csm_ft.export.run import EXPORT, check_output, default_output
from csm_ft.runs.source import Source


def test_only_our_exports_are_replaced(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    check_output(tmp_path)  # empty
    ours, theirs, file = (tmp_path / name for name in ("ours", "theirs", "file"))
    for folder, maker in ((ours, "csm-ft"), (theirs, "somebody")):
        folder.mkdir()
        (folder / EXPORT).write_text(json.dumps({"made_by": maker}))
    file.touch()
    check_output(ours)
    refused = "is there already and was not made by this program; choose another --output"
    for place in (theirs, file, tmp_path):
        with pytest.raises(ConfigError, match=refused):
            check_output(place)
    for content in ("", "[]", "{}", "not json"):
        (theirs / EXPORT).write_text(content)
        with pytest.raises(ConfigError, match="was not made by this program"):
            check_output(theirs)


def test_impossible_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose another --output"):
        check_output(tmp_path / "file/below/x")


def test_only_runs_have_a_default_output() -> None:
    run = Source("x", home=Path("exp/run"))
    assert default_output(run, "merged") == Path("exp/run/export-merged")
    with pytest.raises(ConfigError, match=r"sesame/csm-1b is not a run .* --output DIR"):
        default_output(Source("sesame/csm-1b"), "sesame")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "RUN is missing"),
        (["x"], "--format is missing: choose among sesame, transformers, merged"),
        (["x", "--format", "gguf"], "--format gguf: choose among sesame, transformers, merged"),
        (["x", "--format", "sesame", "--dtype", "int8"], "dtype: 'int8' is not valid"),
        (["x", "--family", "nobody"], "family 'nobody' is not known"),
    ],
)
def test_mistakes_are_usage_errors(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "Formats: sesame, transformers, merged." in " ".join(capsys.readouterr().out.split())


def test_missing_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path, "none of model.safetensors,"),
    ):
        assert main([str(name), "--format", "sesame", "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
