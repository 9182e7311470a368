"""A family with an encoder that takes no time, and a folder to run pretokenize.py in."""

from pathlib import Path

import pytest

from tests.helpers.pretokenizing import FakeEncoder, Work, use_fake_family


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    use_fake_family(fake, monkeypatch.setattr)
    return fake


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)
