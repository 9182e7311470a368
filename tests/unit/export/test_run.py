"""The command's own decisions: where to write, over what, and how the library is told to speak."""

from pathlib import Path

import pytest

from csm_ft.config import ConfigError, TrainConfig
from csm_ft.export import run as export
from csm_ft.runs.source import Origin


def test_only_an_export_of_ours_is_replaced(tmp_path: Path) -> None:
    export._check_output(tmp_path / "new")
    export._check_output(tmp_path)  # empty
    ours, theirs, file = (tmp_path / name for name in ("ours", "theirs", "file"))
    for folder, content in ((ours, '{"made_by": "csm-ft"}'), (theirs, '{"made_by": "somebody"}')):
        folder.mkdir()
        (folder / export.RECORD).write_text(content)
    file.touch()
    export._check_output(ours)
    for place in (theirs, file, tmp_path):
        with pytest.raises(
            ConfigError,
            match="is there already and was not made by this program; choose another --output",
        ):
            export._check_output(place)
    for content in ("", "[]", "{}", "not json"):
        (theirs / export.RECORD).write_text(content)
        with pytest.raises(ConfigError, match="was not made by this program"):
            export._check_output(theirs)


def test_exports_of_runs_have_a_place_and_others_do_not() -> None:
    assert export._default_output(Origin("x", home=Path("exp/run")), "merged") == Path(
        "exp/run/export-merged"
    )
    with pytest.raises(ConfigError, match=r"sesame/csm-1b is not a run .* --output DIR"):
        export._default_output(Origin("sesame/csm-1b"), "sesame")


def test_the_library_speaks_as_the_run_did() -> None:
    sampling = export._sampling(TrainConfig(gen_max_sec=2.0, gen_temperature=0.7, gen_topk=20))
    assert (sampling.max_frames, sampling.temperature, sampling.topk) == (25, 0.7, 20)
    assert export._sampling(None).max_frames == 125


@pytest.mark.parametrize(
    "argv", [[], ["x"], ["x", "--format", "gguf"], ["x", "--format", "sesame", "--dtype", "int8"]]
)
def test_a_mistake_on_the_command_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        export.main(argv)
    assert stopped.value.code == 2
    assert "usage: python -m csm_ft.export" in capsys.readouterr().err


def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path, "none of model.safetensors,"),
    ):
        assert (
            export.main([str(name), "--format", "sesame", "--output", str(tmp_path / "out")]) == 2
        )
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
