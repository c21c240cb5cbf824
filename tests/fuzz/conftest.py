"""A web process for the tests that send requests."""

from collections.abc import Iterator

import pytest

from tests.fuzz.http_campaign import start_web
from tests.support.web_process import WebProcess


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WebProcess]:
    """Yield a web process with a SQLite inbox and the dashboard."""
    with start_web(tmp_path_factory.mktemp("web"), redis_url) as process:
        yield process
