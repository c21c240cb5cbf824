"""Where a connection of psycopg was opened, for the warning that it was left open."""

import os
import sys
import traceback
from itertools import islice
from typing import Any
from warnings import warn

import psycopg

from tests.support.processes import ROOT

_MAX_FRAMES = 12


def name_origins() -> None:
    """Let the warning of a connection that nobody closed name the test and the lines that opened it.

    The garbage collection finds it much later, in another test.
    """
    connect = psycopg.Connection.__init__

    def connect_with_origin(connection: psycopg.Connection, *arguments: Any, **options: Any) -> None:
        connect(connection, *arguments, **options)
        connection.origin = _describe_origin()  # type: ignore[attr-defined]  # for _warn_if_open

    psycopg.Connection.__init__ = connect_with_origin  # type: ignore[method-assign, assignment]
    psycopg.Connection.__del__ = _warn_if_open  # type: ignore[method-assign, assignment]


def _warn_if_open(connection: psycopg.Connection) -> None:
    # Without an origin, the connection was never made.
    if (origin := getattr(connection, "origin", "")) and not connection.closed:
        warn(f"{connection!r} was left open. {origin}", ResourceWarning, stacklevel=2, source=connection)


def _describe_origin() -> str:
    own = (
        f"{os.path.relpath(frame.f_code.co_filename, ROOT)}:{line}"
        for frame, line in traceback.walk_stack(sys._getframe(2))
        if frame.f_code.co_filename.startswith(str(ROOT)) and ".venv" not in frame.f_code.co_filename
    )
    test = os.environ.get("PYTEST_CURRENT_TEST", "no test")
    return f"It was opened in {test}, at {' < '.join(islice(own, _MAX_FRAMES))}"
