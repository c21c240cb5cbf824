"""The monitor's requests to Truto's API: rate-limited, skipped during outages."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from app.errors import TrutoRefused, TrutoUnavailable
from app.truto.client import TrutoClient

_INTERVAL = timedelta(minutes=5)
_T = TypeVar("_T")

log = structlog.get_logger()


class TrutoPoller:
    """Truto's API for periodic requests, whose errors are logged. api: None without a token."""

    def __init__(self, api: TrutoClient | None) -> None:
        self._api = api
        self._requested_at: dict[str, datetime] = {}
        self._is_unavailable = False

    @property
    def has_token(self) -> bool:
        """Whether an API token is set."""
        return self._api is not None

    def begin_round(self, now: datetime) -> None:
        """Allow requests again after an outage in the last round."""
        self._is_unavailable = False
        self._requested_at = {key: at for key, at in self._requested_at.items() if now - at < _INTERVAL}

    def claim_turn(self, key: str, now: datetime) -> bool:
        """Return whether a request is due, at most every five minutes; True counts as a request."""
        if key in self._requested_at and now - self._requested_at[key] < _INTERVAL:
            return False
        self._requested_at[key] = now
        return True

    def request(
        self,
        subject: str,
        call: Callable[[TrutoClient], _T],
        *,
        on_error: Callable[[TrutoRefused | TrutoUnavailable], None] = lambda _: None,
    ) -> _T | None:
        """Return the result of `call`; None if there is none.

        None: without a token, during an outage, and after a refusal. subject: the run or webhook, for
        the log. on_error: receives the error of a request that failed.
        """
        if self._api is None or self._is_unavailable:
            return None
        try:
            return call(self._api)
        except (TrutoRefused, TrutoUnavailable) as error:
            self.log_error(subject, error)
            on_error(error)
        return None

    def describe_skip(self) -> str:
        """Return the reason why `request` sends nothing."""
        if self._api is None:
            return "TRUTO_API_TOKEN is not set; set it, and restart the workers"
        return "Truto's API did not answer an earlier request"

    def log_error(self, subject: str, error: TrutoRefused | TrutoUnavailable) -> None:
        """Log a failed request; after an outage, skip all others of this round."""
        if isinstance(error, TrutoUnavailable):
            # A request to an unavailable API takes seconds: the round's other requests must not wait too.
            self._is_unavailable = True
        log.warning("truto.failed", subject=subject, error=str(error))
