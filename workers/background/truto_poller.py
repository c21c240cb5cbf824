"""Truto's API for what goes on for ever: asked now and then, and left alone while it is away."""

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
    """Answers None for whatever Truto does not tell now. api: None where there is no token."""

    def __init__(self, api: TrutoClient | None) -> None:
        self._api = api
        self._requested_at: dict[str, datetime] = {}
        self._is_unavailable = False

    @property
    def has_token(self) -> bool:
        """Whether there is a token at all."""
        return self._api is not None

    def begin_round(self, now: datetime) -> None:
        """Try again what was away in the last round."""
        self._is_unavailable = False
        self._requested_at = {key: at for key, at in self._requested_at.items() if now - at < _INTERVAL}

    def is_due(self, key: str, now: datetime) -> bool:
        """Whether something was not asked for minutes; notes that it is being asked."""
        if key in self._requested_at and now - self._requested_at[key] < _INTERVAL:
            return False
        self._requested_at[key] = now
        return True

    def request(self, subject: str, call: Callable[[TrutoClient], _T]) -> _T | None:
        """Ask; None without a token, while Truto is away, and where it refuses."""
        if self._api is None or self._is_unavailable:
            return None
        try:
            return call(self._api)
        except (TrutoRefused, TrutoUnavailable) as error:
            self.log_error(subject, error)
        return None

    def log_error(self, subject: str, error: TrutoRefused | TrutoUnavailable) -> None:
        """Note that Truto did not tell."""
        if isinstance(error, TrutoUnavailable):
            # Each attempt takes its time: what else there is to ask in this round is not to wait for it too.
            self._is_unavailable = True
        log.warning("truto.silent", about=subject, error=str(error))
