"""Notices on their way: a post for every endpoint that wants one, until it is sent or given up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import select, update

from app.database.engine import Store, one_statement, store_faults
from app.database.upsert import insert_into
from app.store.notifications import Notice, notice_of
from app.store.schema import notices, posts


class Endpoint(Protocol):
    """Who may want to be told."""

    @property
    def name(self) -> str: ...
    def wants(self, kind: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Post:
    """One notice for one endpoint. attempts: this one included. posted_at: when its way began."""

    notice: Notice
    endpoint: str
    attempts: int
    posted_at: datetime


class Outbox:
    """The posts. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def post(self, endpoints: Sequence[Endpoint], *, now: datetime, most: int) -> int:
        """Make posts of notices that have none yet, the oldest first; return how many notices that were.

        Two processes may do so at once: each notice is taken by one of them.
        """
        unposted = (
            select(notices.c.id, notices.c.kind)
            .where(notices.c.posted_at.is_(None))
            .order_by(notices.c.at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        with store_faults(), self._store.begin() as connection:
            found = connection.execute(unposted).all()
            rows = [
                {"notice_id": notice.id, "endpoint": endpoint.name, "state": "pending", "due_at": now}
                for notice in found
                for endpoint in endpoints
                if endpoint.wants(notice.kind)
            ]
            if rows:
                statement = insert_into(connection.dialect.name, posts)
                connection.execute(statement.on_conflict_do_nothing(), rows)
            if found:
                ids = [notice.id for notice in found]
                connection.execute(update(notices).where(notices.c.id.in_(ids)).values(posted_at=now))
        return len(found)

    def claim(self, endpoint: str, *, now: datetime, lease_s: float) -> Post | None:
        """Take the post of an endpoint that is due for longest; None where none is. Counts as an attempt.

        It is due again in `lease_s` seconds: whoever dies with it in hand leaves it to be sent again.
        """
        due = (
            select(posts, notices)
            .join(notices, notices.c.id == posts.c.notice_id)
            .where(posts.c.state == "pending", posts.c.due_at <= now, posts.c.endpoint == endpoint)
            .order_by(posts.c.due_at)
            .limit(1)
            .with_for_update(of=posts, skip_locked=True)
        )
        with store_faults(), self._store.begin() as connection:
            row = connection.execute(due).mappings().first()
            if row is None:
                return None
            post = Post(notice_of(row), endpoint, row["attempts"] + 1, row["posted_at"])
            until = now + timedelta(seconds=lease_s)
            connection.execute(_change(post).values(due_at=until, attempts=post.attempts))
        return post

    def sent(self, post: Post) -> None:
        """Note that the endpoint has it, whatever another attempt made of it meanwhile."""
        self._execute(_change(post).values(state="sent", message=""))

    def postpone(self, post: Post, *, due_at: datetime, message: str) -> None:
        """Have it sent again. message: what became of this attempt."""
        self._execute(_if_ours(post).values(due_at=due_at, message=message))

    def give_up(self, post: Post, message: str) -> None:
        """Never send it again. message: what became of the last attempt."""
        self._execute(_if_ours(post).values(state="dead", message=message))

    def _execute(self, statement: Any) -> None:
        with store_faults(), one_statement(self._store) as connection:
            connection.execute(statement)


def _change(post: Post) -> Any:
    return update(posts).where(posts.c.notice_id == post.notice.id, posts.c.endpoint == post.endpoint)


def _if_ours(post: Post) -> Any:
    # Whoever comes late, after its lease, must not undo what another attempt has found out.
    return _change(post).where(posts.c.state == "pending", posts.c.attempts == post.attempts)
