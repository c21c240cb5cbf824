"""The statements that search and lease due deliveries, built once: they run many times a second."""

from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Dialect,
    Select,
    Text,
    UpdateBase,
    bindparam,
    case,
    cast,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from app.database.late_flush import commit_without_flush
from app.store.pending import COLUMNS_OF_ANY_LEASE, IS_LOST, IS_PENDING
from app.store.schema import deliveries

# As a literal: SQLite uses a partial index only for a query that repeats its condition.
_IS_INDEXED = deliveries.c.state == literal_column("'pending'")
# A turn passes so many accounts at most; those behind them come with the next turns.
_MAX_PASSED_ACCOUNTS = 2_000
_ACCOUNT = deliveries.c.integrated_account_id
_IN_LANE = (_IS_INDEXED, deliveries.c.priority == bindparam("priority"))
_IS_DUE = (*_IN_LANE, deliveries.c.due_at <= bindparam("now"))
_COLUMNS = (deliveries.c.id, _ACCOUNT, deliveries.c.body_bytes)


class DueStatements:
    """Statements with the parameters priority, now and limit, unless said otherwise.

    oldest: the deliveries that have been due for longest. of_accounts: the same for each of `accounts`, after
    an `offset`; None for SQLite. of_account: for one `account`. lease: `ids` that are due now, until `until`.
    """

    def __init__(self, dialect: Dialect) -> None:
        due: Select[Any] = select(*_COLUMNS).where(*_IS_DUE)
        self.oldest = due.order_by(deliveries.c.due_at).limit(bindparam("limit"))
        page = self.oldest.offset(bindparam("offset"))
        self.of_account = page.where(bindparam("account") == _ACCOUNT)
        self.of_accounts = _for_each_account(page) if dialect.name == "postgresql" else None
        self.lease = _build_lease(commit_without_flush(dialect.name))
        self._accounts = cache(_build_accounts)

    def get_accounts(self, *, has_after: bool, has_until: bool) -> Select[Any]:
        """Return the search for accounts with due deliveries, in their order.

        Each account with pending deliveries costs one search of the index. is_last: the search ended at this
        account, because it had passed many; the account may have none that are due. has_after, has_until: the
        parameters that limit the accounts.
        """
        return self._accounts(has_after, has_until, _MAX_PASSED_ACCOUNTS)


def _build_accounts(has_after: bool, has_until: bool, max_passed: int) -> Select[Any]:
    first = select(func.min(_ACCOUNT)).where(*_IN_LANE)
    if has_after:
        first = first.where(bindparam("after") < _ACCOUNT)
    start = select(first.scalar_subquery().label("account"), literal(1).label("number"))
    chain = start.cte("accounts", recursive=True)
    following = select(func.min(_ACCOUNT)).where(*_IN_LANE, chain.c.account < _ACCOUNT)
    step = select(following.scalar_subquery(), chain.c.number + 1).where(
        chain.c.account.is_not(None), chain.c.number < max_passed
    )
    if has_until:
        step = step.where(chain.c.account < bindparam("until"))
    chain = chain.union_all(step)
    # By the order, one search of the index: PostgreSQL might read all due deliveries otherwise.
    first_due = (
        select(literal(1))
        .where(*_IS_DUE, chain.c.account == _ACCOUNT)
        .order_by(deliveries.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    is_last = chain.c.number == max_passed
    listed = select(chain.c.account, is_last.label("is_last")).where(
        chain.c.account.is_not(None), or_(first_due.is_not(None), is_last)
    )
    if has_until:
        listed = listed.where(chain.c.account <= bindparam("until"))
    return listed.limit(bindparam("limit"))


def _for_each_account(oldest: Select[Any]) -> Select[Any]:
    listed = func.unnest(cast(bindparam("accounts"), ARRAY(Text)))
    columns = listed.table_valued(column("account", Text), with_ordinality="place", name="listed")
    one = columns.render_derived()
    found = oldest.where(one.c.account == _ACCOUNT).lateral("found")
    return (
        select(found.c.id, found.c.integrated_account_id, found.c.body_bytes)
        .select_from(one.join(found, literal_column("true")))
        .order_by(one.c.place)
    )


def _build_lease(conditions: tuple[ColumnElement[bool], ...]) -> UpdateBase:
    free = (
        select(deliveries.c.id)
        .where(
            deliveries.c.id.in_(bindparam("ids", expanding=True)),
            IS_PENDING,
            deliveries.c.due_at <= bindparam("now"),
        )
        .with_for_update(skip_locked=True)
    )
    return (
        update(deliveries)
        .where(deliveries.c.id.in_(free.scalar_subquery()), *conditions)
        .values(due_at=bindparam("until"))
        # The lease of a worker will count it as lost. It is lost now: it gets a job of its own.
        .returning(
            *COLUMNS_OF_ANY_LEASE,
            (deliveries.c.lost_attempts + case((IS_LOST, 1), else_=0)).label("lost_attempts"),
        )
    )
