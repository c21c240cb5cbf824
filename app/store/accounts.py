"""Integrated accounts with the states of their syncs, the ones in need of attention first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Case,
    ColumnElement,
    Integer,
    Select,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from app.database.engine import Database
from app.store.run_summaries import RunSummary, to_run_summary
from app.store.runs import StoredRun
from app.store.schema import UtcDateTime, runs, syncs

PAGE_SIZE = 50
# Sorts accounts without any run behind the others.
_NEVER = datetime.max


class SyncState(StrEnum):
    """The states of a sync, and of an account, whose state is its worst sync's. The worst comes first."""

    INCOMPLETE = "incomplete"
    LATE = "late"
    UNKNOWN = "unknown"
    OPEN = "open"
    COMPLETE = "complete"
