"""A web process for the tests that send requests."""

from collections.abc import Iterator

import pytest

from app.database.engine import open_database
from app.store.migrate import migrate
from tests.support.dashboard import SETTINGS
from tests.support.web_process import WebProcess


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WebProcess]:
    """Yield a web process with a SQLite inbox and the dashboard."""
    folder = tmp_path_factory.mktemp("web")
    database_url = f"sqlite:///{folder}/inbox.db"
    store = open_database(database_url)
    migrate(store)
    store.close()
    settings = {**SETTINGS, "MAX_BODY_BYTES": "65536"}
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, **settings) as process:
        yield process
