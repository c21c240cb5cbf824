"""The state of the whole service: traffic, backlog, workers, open conditions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.checks.open_conditions import OpenCondition, list_open_conditions
from app.checks.service_facts import StoreFacts, read_store_facts
from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.store.arrivals import MINUTE_S, QUARTER_HOUR_S, ArrivalPeriod, Arrivals
from app.store.response_counts import STORED, ResponseCount, ResponseCounts

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """The requests with one answer, in the last hour and day. last_at: of the newest one."""

    answer: ResponseCount
    last_hour: int
    last_day: int

    @property
    def is_stored(self) -> bool:
        """Whether these requests were stored."""
        return self.answer.status in STORED


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker process. differences: from the configuration of this process, as phrases."""

    name: str
    started_at: datetime
    version: str
    differences: Sequence[str]


@dataclass(frozen=True, slots=True)
class StoreOverview:
    """The part that the database knows. arrivals: by minute or by 15 minutes."""

    facts: StoreFacts
    arrivals: Sequence[ArrivalPeriod]
    answers: Sequence[AnswerCount]
    workers: Sequence[LiveWorker]
    conditions: Sequence[OpenCondition]


def read_store_overview(
    database: Database, config: DeliveryConfig, *, of_day: bool, now: datetime
) -> StoreOverview:
    """Read the part of the database; raises StoreUnavailable.

    config: of this process. of_day: arrivals of the last day instead of the last hour.
    """
    facts = read_store_facts(database, config, now=now)
    period_s, since = (QUARTER_HOUR_S, now - _DAY) if of_day else (MINUTE_S, now - _HOUR)
    counts = ResponseCounts(database)
    return StoreOverview(
        facts=facts,
        arrivals=Arrivals(database).list_periods(period_s, since=since, until=now),
        answers=_merge_counts(counts.list_since(now - _HOUR), counts.list_since(now - _DAY)),
        workers=[
            LiveWorker(
                worker.name,
                worker.started_at,
                _read_version(worker.config),
                config.find_differences(worker.config),
            )
            for worker in facts.workers
        ],
        conditions=list_open_conditions(database, facts.open_notifications),
    )


def _merge_counts(of_hour: Sequence[ResponseCount], of_day: Sequence[ResponseCount]) -> list[AnswerCount]:
    """Return the answers of a day, the refused ones first."""
    hour = {(count.status, count.cause): count.number for count in of_hour}
    merged = [AnswerCount(count, hour.get((count.status, count.cause), 0), count.number) for count in of_day]
    return sorted(merged, key=lambda count: (count.is_stored, -count.last_day))


def _read_version(config: str) -> str:
    """Return the release in the text that a worker publishes; "unknown" if another release wrote it."""
    try:
        return str(json.loads(config)["version"])
    except (ValueError, TypeError, KeyError):
        return "unknown"
