"""Database URLs: redaction and errors."""

import pytest

from app.database.engine import open_database, redact_url
from app.errors import ConfigError

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        (f"postgres://u:{HIDDEN}@h/d", "postgres://u:***@h/d"),
        (f"postgres://u@h/d?password={HIDDEN}&sslmode=require", "postgres://u@h/d?sslmode=require"),
        (f"postgres://u@/d?host=/run&sslpassword={HIDDEN}", "postgres://u@/d?host=%2Frun"),
        ("sqlite:///var/x.db", "sqlite:///var/x.db"),
    ],
)
def test_a_database_url_is_shown_without_its_passwords(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


@pytest.mark.parametrize("use", [redact_url, open_database])
def test_the_error_for_a_malformed_url_does_not_quote_it(use: object) -> None:
    assert callable(use)
    with pytest.raises(ConfigError) as error:
        use(f"postgres://u:a@{HIDDEN}:x@h/d")

    assert HIDDEN not in str(error.value)
    assert error.value.__cause__ is None
