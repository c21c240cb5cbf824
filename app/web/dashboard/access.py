"""Access to the dashboard: sign-in, sessions, roles, and protection of forms."""

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from flask import Request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Response

from app.config.settings import Settings

SESSION_HOURS = 12
CSRF_FIELD = "csrf"
# Browsers accept a name with this prefix only from HTTPS, for this host and for all paths.
_SECURE_COOKIE, _LOCAL_COOKIE = "__Host-rapidbridge", "rapidbridge"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class Role(StrEnum):
    """The rights of a session."""

    WRITE = "write"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser. csrf: the value that its forms send back."""

    role: Role
    csrf: str


class Access:
    """Checks passwords and sessions. Sessions are signed cookies, valid in every web process.

    A change of a password or of the webhook's secret ends all sessions.
    """

    def __init__(self, settings: Settings) -> None:
        self._passwords = {
            role: _digest(password)
            for role, password in (
                (Role.WRITE, settings.dashboard_password),
                (Role.READ, settings.dashboard_read_password),
            )
            if password
        }
        # The webhook's secret cannot be guessed, as a password may be from a cookie.
        key = [*settings.secret_values, settings.dashboard_password, settings.dashboard_read_password]
        self._serializer = URLSafeTimedSerializer(_digest("\0".join(key)), salt="rapidbridge session")

    @property
    def is_on(self) -> bool:
        """Whether a password is set."""
        return bool(self._passwords)

    def find_role(self, password: str) -> Role | None:
        """Return the role that a password gives; None if it is wrong. Takes equally long for every role."""
        digest = _digest(password)
        matches = [role for role, known in self._passwords.items() if hmac.compare_digest(digest, known)]
        return matches[0] if matches else None

    def find_session(self, request: Request) -> Session | None:
        """Return the session of a request; None if it has none, or an invalid or expired one."""
        try:
            role, csrf = self._serializer.loads(
                request.cookies.get(_cookie_name(request), ""), max_age=SESSION_HOURS * 3600
            )
            return Session(Role(role), str(csrf))
        except (BadSignature, ValueError, TypeError):
            return None

    def start_session(self, request: Request, response: Response, role: Role) -> None:
        """Add the cookie of a new session to a response."""
        value = self._serializer.dumps([role, secrets.token_urlsafe(16)])
        response.set_cookie(
            _cookie_name(request),
            value if isinstance(value, str) else value.decode(),
            max_age=SESSION_HOURS * 3600,
            secure=not _is_local(request),
            httponly=True,
            samesite="Lax",
        )

    def end_session(self, request: Request, response: Response) -> None:
        """Delete the cookie of a session."""
        response.delete_cookie(
            _cookie_name(request), secure=not _is_local(request), httponly=True, samesite="Lax"
        )


def is_forged(request: Request, session: Session | None) -> bool:
    """Whether a form was not sent by a page of this session."""
    # Browsers name the origin of every request. Other clients have no cookies of somebody else.
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    sent = request.form.get(CSRF_FIELD, "")
    return session is not None and not hmac.compare_digest(sent.encode(), session.csrf.encode())


def find_client_address(request: Request) -> str:
    """Return the address of a client, as the nearest router saw it."""
    # A router appends the address; everything before it was sent by the client. Without a router, all of it
    # was: only an address may reach the log.
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return _read_address(forwarded) or request.remote_addr or ""


class SignInLimit:
    """Limits wrong passwords: five in five minutes for a client, 60 for a process. clock: in seconds."""

    WINDOW_S = 300.0
    MAX_OF_CLIENT = 5
    MAX_OF_PROCESS = 60

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque(maxlen=self.MAX_OF_PROCESS)

    def is_reached(self, client: str) -> bool:
        """Whether a client has to wait."""
        while self._failures and self._failures[0][0] <= self._clock() - self.WINDOW_S:
            self._failures.popleft()
        of_client = sum(failed == client for _, failed in self._failures)
        return of_client >= self.MAX_OF_CLIENT or len(self._failures) >= self.MAX_OF_PROCESS

    def record_failure(self, client: str) -> None:
        """Count a wrong password."""
        self._failures.append((self._clock(), client))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _read_address(text: str) -> str:
    """Return the IP address of a text, which may have a port; "" if it has none."""
    for host in (text, text.rpartition(":")[0], text.partition("]")[0]):
        with suppress(ValueError):
            return str(ip_address(host.removeprefix("[").removesuffix("]")))
    return ""


def _cookie_name(request: Request) -> str:
    return _LOCAL_COOKIE if _is_local(request) else _SECURE_COOKIE


def _is_local(request: Request) -> bool:
    """Whether a browser on this machine uses plain HTTP, over which it may refuse a secure cookie."""
    is_https = request.is_secure or request.headers.get("X-Forwarded-Proto", "").strip() == "https"
    host = request.environ.get("HTTP_HOST", "").rpartition(":")[0] or request.environ.get("HTTP_HOST", "")
    return not is_https and host in _LOCAL_HOSTS
