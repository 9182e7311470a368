"""python -m csm_ft.report."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from csm_ft.errors import ReportError
from csm_ft.report.__main__ import main
from csm_ft.report.page import build_report
from tests.unit.report.reading import Sweep


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the folder that sweep.py wrote"),
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"study": "s"}', "state: Field required"),
        (
            (
                '{"study": "s", "state": "finished", "trials": [{"number": 0, "state": "completed",'
                ' "dir": "../../secret"}]}'
            ),
            "lies outside",
        ),
        (
            (
                '{"study": "s", "state": "finished", "trials": [{"number": 0, "state": "pruned",'
                ' "dir": "t"}]}'
            ),
            "trials.0.state",
        ),
    ],
)
def test_folder_without_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ReportError, match=re.escape(message)):
        build_report(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_command_line(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep[0])]) == 0
    assert "report.html (" in capsys.readouterr().out


def test_missing_folder_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "name the folder that sweep.py or train.py wrote" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from csm_ft.report.__main__ import main
try:
    main(["--help"])
except SystemExit:
    pass
print([name for name in ("plotly", "soundfile", "torch", "optuna") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SWEEP_DIR" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_report_needs_no_torch() -> None:
    code = "import sys, csm_ft.report.page; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
