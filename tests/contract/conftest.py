"""Processes that several contract tests share."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.warehouse import DltForks


@pytest.fixture(scope="session")
def dlt_forks() -> Iterator[DltForks]:
    with closing(DltForks()) as forks:
        yield forks
