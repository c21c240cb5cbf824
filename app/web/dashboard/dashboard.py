"""The dependencies that all pages share, and the log of actions."""

from dataclasses import dataclass

import structlog
from flask import g, request

from app.clock import utc_now
from app.config.load import Config
from app.database.engine import Database
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.audit_log import AuditEntry, AuditLog
from app.store.bounded_count import ONE, BoundedCount
from app.store.operations import Requester
from app.web.dashboard.access import Role, find_client_address

_ACTORS = {Role.WRITE: "dashboard", Role.READ: "dashboard, read-only"}
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The configuration, and connections of the dashboard's own, so that no page delays a commit."""

    config: Config
    database: Database
    queue: DeliveryQueue
    spool: Spool

    @property
    def actor(self) -> str:
        """The name under which the session's actions are recorded."""
        return _ACTORS[g.session.role]

    @property
    def requester(self) -> Requester:
        """The origin of an operation that this request starts."""
        return Requester(self.actor, find_client_address(request))

    def audit(self, action: str, subject: str, number: BoundedCount = ONE) -> None:
        """Record an action of this request before it is carried out; raises StoreUnavailable.

        action: such as "delivery.replay". subject: an id, a name, or a filter. number: of affected items.
        """
        entry = AuditEntry(utc_now(), self.actor, find_client_address(request), action, subject, number)
        AuditLog(self.database).add(entry)
        by = {"actor": entry.actor, "address": entry.address}
        log.info("action." + action, **by, subject=subject, number=number.as_number)
