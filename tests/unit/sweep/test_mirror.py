"""A study copied to a database: its URL. The copying is tested with a server (test_sweep_storage)."""

import pytest

from csm_ft.errors import ConfigError
from csm_ft.sweep.mirror import _with_driver, without_password


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (
            "--storage postgresql://me:s3cret@db:5432/x --n 1",
            "--storage postgresql://me:***@db:5432/x --n 1",
        ),
        ("mysql+pymysql://me:a:b@db/x", "mysql+pymysql://me:***@db/x"),
        (
            "postgresql://db/x?user=me&password=s3cret&sslmode=require",
            "postgresql://db/x?user=me&password=***&sslmode=require",
        ),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
    ],
)
def test_passwords_are_hidden(text: str, hidden: str) -> None:
    assert without_password(text) == hidden


def test_urls_get_the_drivers_that_are_installed() -> None:
    assert _with_driver("postgresql://me:p@db/x") == "postgresql+psycopg://me:p@db/x"
    assert _with_driver("mysql://db/x") == "mysql+pymysql://db/x"
    with pytest.raises(ConfigError, match="storage is not the URL of a database, such as"):
        _with_driver("db/x:s3cret")
