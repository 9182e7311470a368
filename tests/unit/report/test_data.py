"""Run folders are read leniently."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.report import data
from tests.helpers.sweep_folder import make_run


@given(st.binary(max_size=200))
def test_any_metrics_file_is_readable(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_bytes(content)
    assert all(math.isfinite(v.value) for v in data.read_run(folder, []).validations)


@given(st.integers(0, 2000))
def test_cut_file_gives_rows_before(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    rows = [
        json.dumps({"kind": "val", "step": i, "examples": i * 8, "val_loss": 5.0 - i / 100})
        for i in range(1, 30)
    ]
    (folder / "metrics.jsonl").write_bytes("\n".join(rows).encode()[:cut])
    whole = [row for i, row in enumerate(rows) if len("\n".join(rows[: i + 1])) <= cut]
    assert [v.value for v in data.read_run(folder, []).validations] == [
        json.loads(row)["val_loss"] for row in whole
    ]


def test_untrained_validation_is_off_curve(tmp_path: Path) -> None:
    make_run(
        tmp_path / "run",
        {},
        curve=[(80, 6.0), (160, 5.0)],
        last_step=20,
        quality=1.0,
        rng=np.random.default_rng(0),
    )
    assert data.read_run(tmp_path / "run", []).validations == [
        data.Validation(80, 6.0),
        data.Validation(160, 5.0),
    ]
