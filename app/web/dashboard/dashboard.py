"""The dependencies that all pages share, and the log of actions."""

from dataclasses import dataclass

import gevent
import structlog
from flask import g, request

from app.clock import utc_now
from app.config.current_config import CurrentConfig
from app.config.load import Config
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.audit_log import AuditEntry, AuditLog
from app.store.bounded_count import ONE, BoundedCount
from app.store.operations import Requester
from app.web.dashboard.access import Role, find_client_address

_SIGN_IN_TIMEOUT_S = 2.0
_ACTORS = {Role.WRITE: "dashboard", Role.READ: "dashboard, read-only"}
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The configuration, and connections of the dashboard's own, so that no page delays a commit."""

    current_config: CurrentConfig
    database: Database
    queue: DeliveryQueue
    spool: Spool

    @property
    def config(self) -> Config:
        """The settings and the current routes."""
        return self.current_config.get()

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

    def audit_sign_in(self) -> None:
        """Log a sign-in of this request, and record it if the database answers in time."""
        actor, address, role = self.actor, find_client_address(request), g.session.role
        late = StoreUnavailable(f"the database did not answer within {_SIGN_IN_TIMEOUT_S:g} s")
        try:
            # Without the database, people must still reach the pages that show the outage.
            with gevent.Timeout(_SIGN_IN_TIMEOUT_S, late):
                AuditLog(self.database).add(AuditEntry(utc_now(), actor, address, "sign_in", role))
        except StoreUnavailable as error:
            log.warning("sign_in.unrecorded", error=str(error))
        log.info("action.sign_in", actor=actor, address=address, subject=role, number=1)
