"""Due deliveries, in the order in which they are enqueued: the accounts take turns."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from app.database.engine import Database
from app.store.due_statements import DueStatements
from app.store.models import Delivery, DeliveryPriority
from app.store.pending import to_delivery


class _Candidate(NamedTuple):
    """A due delivery. turn: its position among those of its account."""

    id: UUID
    account: str
    body_bytes: int
    turn: int


class _Turn(TypedDict):
    """The parameters of one search for due deliveries."""

    priority: DeliveryPriority
    now: datetime


class DueLease(NamedTuple):
    """Deliveries to enqueue, in turn. has_more: whether others are due."""

    deliveries: Sequence[Delivery]
    has_more: bool


class DueDeliveries:
    """Leases due deliveries for the queue. Methods raise StoreUnavailable.

    Any number of feeders may lease at once: each delivery goes to one of them. The time of a call depends on
    its limit, and neither on the number of due deliveries nor on that of their accounts.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = DueStatements(database.dialect)
        # The account at which the last turn ended.
        self._ends: dict[DeliveryPriority, str] = {}

    def lease(
        self,
        *,
        now: datetime,
        limit: int,
        requeue_after_s: float,
        priority: DeliveryPriority = DeliveryPriority.LIVE,
        max_bytes: int | None = None,
    ) -> DueLease:
        """Lease due deliveries to be enqueued; they are due again after `requeue_after_s` seconds.

        Each account gets an equal share of the places. Shares that are not used go to the others. Within an
        account, the delivery that has been due for longest is the first. max_bytes: of their bodies, except
        for the first; None for any.
        """
        turn: _Turn = {"priority": priority, "now": now}
        rows = self._database.read(self._statements.oldest, {**turn, "limit": limit + 1})
        candidates, end = list(_count_turns(rows)), None
        if has_more := len(rows) > limit:
            candidates, end = self._take_turns(turn, candidates, limit=limit)
        # The first of each account, then the second of each, and so on.
        candidates.sort(key=lambda candidate: candidate.turn)
        chosen = list(islice(_limit_bytes(candidates, max_bytes), limit))
        if not chosen:
            return DueLease((), has_more=False)
        self._ends[priority] = end if end is not None else chosen[-1].account
        leased = self._lease(chosen, now, requeue_after_s)
        return DueLease(leased, has_more or len(chosen) < len(candidates))

    def _lease(self, chosen: Sequence[_Candidate], now: datetime, requeue_after_s: float) -> list[Delivery]:
        places = {candidate.id: place for place, candidate in enumerate(chosen)}
        until = now + timedelta(seconds=requeue_after_s)
        parameters = {"ids": sorted(places), "now": now, "until": until}
        rows = self._database.read(self._statements.lease, parameters)
        return sorted((to_delivery(row) for row in rows), key=lambda delivery: places[delivery.id])

    def _take_turns(
        self, turn: _Turn, oldest: Sequence[_Candidate], *, limit: int
    ) -> tuple[list[_Candidate], str | None]:
        """Return due deliveries of as many accounts as possible, and where their search ended early."""
        accounts, end = self._list_accounts(turn, limit)
        # The search may have ended before the account with the oldest delivery.
        accounts = list(dict.fromkeys([*accounts, *(one.account for one in oldest)]))[:limit]
        share = max(1, limit // len(accounts))
        candidates = self._list_oldest(accounts, turn, limit=share, offset=0)
        if len(candidates) < limit and share < limit:
            used = [candidate.account for candidate in candidates if candidate.turn == share - 1]
            candidates += self._list_oldest(used, turn, limit=limit - len(candidates), offset=share)
        return candidates, end

    def _list_accounts(self, turn: _Turn, limit: int) -> tuple[list[str], str | None]:
        """Return accounts with due deliveries, beginning after the one at which the last turn ended.

        Also returns the account at which the search ended early, because it passed many; else None.
        """
        last = self._ends.get(turn["priority"])
        accounts, end = self._scan_accounts(turn, after=last, until=None, limit=limit)
        if last is not None and end is None and len(accounts) < limit:
            further, end = self._scan_accounts(turn, after=None, until=last, limit=limit - len(accounts))
            accounts += further
        return accounts, end

    def _scan_accounts(
        self, turn: _Turn, *, after: str | None, until: str | None, limit: int
    ) -> tuple[list[str], str | None]:
        """Return accounts in their order, within bounds; and where the search ended early."""
        statement = self._statements.get_accounts(has_after=after is not None, has_until=until is not None)
        bounds = {"after": after, "until": until}
        parameters = {**turn, "limit": limit, **{key: at for key, at in bounds.items() if at is not None}}
        rows = self._database.read(statement, parameters)
        end = rows[-1].account if rows and rows[-1].is_last else None
        return [row.account for row in rows], end

    def _list_oldest(
        self, accounts: Sequence[str], turn: _Turn, *, limit: int, offset: int
    ) -> list[_Candidate]:
        """Return so many due deliveries of each account, after an offset."""
        if not accounts or not limit:
            return []
        parameters = {**turn, "limit": limit, "offset": offset}
        if self._statements.of_accounts is not None:
            rows = self._database.read(self._statements.of_accounts, {**parameters, "accounts": [*accounts]})
        else:
            statement = self._statements.of_account
            pages = (self._database.read(statement, {**parameters, "account": name}) for name in accounts)
            rows = [row for page in pages for row in page]
        return list(_count_turns(rows, first=offset))


def _count_turns(rows: Sequence[Any], *, first: int = 0) -> Iterator[_Candidate]:
    turns: dict[str, int] = {}
    for id_, account, body_bytes in rows:
        turn = turns[account] = turns.get(account, first - 1) + 1
        yield _Candidate(id_, account, body_bytes, turn)


def _limit_bytes(candidates: Sequence[_Candidate], max_bytes: int | None) -> Iterator[_Candidate]:
    total = 0
    for candidate in candidates:
        total += candidate.body_bytes
        if max_bytes is not None and total > max_bytes and total > candidate.body_bytes:
            return
        yield candidate
