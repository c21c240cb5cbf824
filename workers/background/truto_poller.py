"""Truto's API for what goes on for ever: asked now and then, and left alone while it is away."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from app.errors import TrutoRefused, TrutoUnavailable
from app.truto.api import TrutoApi

_EVERY = timedelta(minutes=5)
_T = TypeVar("_T")

log = structlog.get_logger()


class Patience:
    """Answers None for whatever Truto does not tell now. api: None where there is no token."""

    def __init__(self, api: TrutoApi | None) -> None:
        self._api = api
        self._asked_at: dict[str, datetime] = {}
        self._is_away = False

    @property
    def is_possible(self) -> bool:
        """Whether there is a token at all."""
        return self._api is not None

    def begin_round(self, now: datetime) -> None:
        """Try again what was away in the last round."""
        self._is_away = False
        self._asked_at = {what: at for what, at in self._asked_at.items() if now - at < _EVERY}

    def is_time(self, what: str, now: datetime) -> bool:
        """Whether something was not asked for minutes; notes that it is being asked."""
        if what in self._asked_at and now - self._asked_at[what] < _EVERY:
            return False
        self._asked_at[what] = now
        return True

    def ask(self, about: str, question: Callable[[TrutoApi], _T]) -> _T | None:
        """Ask; None without a token, while Truto is away, and where it refuses."""
        if self._api is None or self._is_away:
            return None
        try:
            return question(self._api)
        except (TrutoRefused, TrutoUnavailable) as error:
            self.note(about, error)
        return None

    def note(self, about: str, error: TrutoRefused | TrutoUnavailable) -> None:
        """Note that Truto did not tell."""
        if isinstance(error, TrutoUnavailable):
            # Each attempt takes its time: what else there is to ask in this round is not to wait for it too.
            self._is_away = True
        log.warning("truto.silent", about=about, error=str(error))
