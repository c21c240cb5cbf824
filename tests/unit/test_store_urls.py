"""Databases' URLs, as they are shown and where they are none."""

import pytest

from app.database.engine import open_database, redact_url
from app.errors import ConfigError

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgres://u:{HIDDEN}@h/d", "postgres://u:***@h/d"),
        (f"postgres://u@h/d?password={HIDDEN}&sslmode=require", "postgres://u@h/d?sslmode=require"),
        (f"postgres://u@/d?host=/run&sslpassword={HIDDEN}", "postgres://u@/d?host=%2Frun"),
        ("sqlite:///var/x.db", "sqlite:///var/x.db"),
    ],
)
def test_an_address_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize("use", [redact_url, open_database])
def test_an_address_that_is_none_is_a_complaint_that_does_not_quote_it(use: object) -> None:
    assert callable(use)
    with pytest.raises(ConfigError) as complaint:
        use(f"postgres://u:a@{HIDDEN}:x@h/d")

    assert HIDDEN not in str(complaint.value)
    assert complaint.value.__cause__ is None
