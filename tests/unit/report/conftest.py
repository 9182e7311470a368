"""A sweep folder to make pages of."""

from pathlib import Path

import pytest

from tests.helpers.sweep_folder import make_sweep
from tests.unit.report.reading import Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    out = tmp_path / "exp" / "demo"
    out.mkdir(parents=True)
    return out, make_sweep(out)
