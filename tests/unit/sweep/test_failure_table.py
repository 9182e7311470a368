"""docs/sweep.md says of each failure which test shows what becomes of it."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]


def test_every_failure_has_its_test() -> None:
    page = (TESTS.parent / "docs/sweep.md").read_text()
    named = re.findall(r"`((?:unit|integration)/\S+\.py)::(test_\w+)` \|\n", page)
    assert len(named) >= 30
    for file, test in named:
        assert f"\ndef {test}(" in (TESTS / file).read_text(), f"{file}::{test}"
