"""Database URLs: redaction and errors."""

from pathlib import Path

import pytest

from app.database.engine import open_database, redact_url
from app.errors import ConfigError, SinkUnavailable, StoreUnavailable
from app.sinks.sql.sink import SqlSink

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        (f"postgres://u:{HIDDEN}@h/d", "postgres://u:***@h/d"),
        (f"postgres://u@h/d?password={HIDDEN}&sslmode=require", "postgres://u@h/d?sslmode=require"),
        (f"postgres://u@/d?host=/run&sslpassword={HIDDEN}", "postgres://u@/d?host=%2Frun"),
        ("sqlite:///var/x.db", "sqlite:///var/x.db"),
        (f"postgres://u@h/d?oauth_client_secret={HIDDEN}&sslkey=/k", "postgres://u@h/d?sslkey=%2Fk"),
        (f"postgres://u@h/d?scram_client_key={HIDDEN}", "postgres://u@h/d"),
        (
            f"postgres://u:{HIDDEN}@h1:1,h2:2/d?sslmode=require",
            "postgres://u:***@/d?host=h1%2Ch2&port=1%2C2&sslmode=require",
        ),
    ],
)
def test_a_database_url_is_shown_without_its_passwords(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = f"sqlite:///{tmp_path}/file/store.db"

    with pytest.raises(StoreUnavailable, match="correct the path in its URL"):
        open_database(url)
    with pytest.raises(SinkUnavailable, match="correct the path in its URL"):
        SqlSink(url)


@pytest.mark.parametrize("use", [redact_url, open_database])
def test_the_error_for_a_malformed_url_does_not_quote_it(use: object) -> None:
    assert callable(use)
    with pytest.raises(ConfigError) as error:
        use(f"postgres://u:a@{HIDDEN}:x@h/d")

    assert HIDDEN not in str(error.value)
    assert error.value.__cause__ is None
