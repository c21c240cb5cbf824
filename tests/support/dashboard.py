"""A client of the dashboard that keeps its cookies and sends the forms of its pages."""

import re
from types import TracebackType
from typing import Self

import httpx

PASSWORD = "a password of the tests"
READ_PASSWORD = "another one, to read only"
SETTINGS = {"DASHBOARD_PASSWORD": PASSWORD, "DASHBOARD_READ_PASSWORD": READ_PASSWORD}


class DashboardClient:
    """A client with a session; a context manager. password: None for a client that does not sign in."""

    def __init__(self, url: str, *, password: str | None = PASSWORD) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)
        self.csrf = ""
        if password is not None:
            response = self.http.post("/login", data={"password": password})
            assert response.status_code == 303, response.text
            page = self.http.get("/audit").text
            match = re.search(r'name="csrf" value="([^"]+)"', page)
            assert match, page
            self.csrf = match[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    @property
    def cookies(self) -> str:
        """The header with the cookie of the session."""
        return "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())

    def get(self, path: str, **parameters: str) -> httpx.Response:
        return self.http.get(path, params=parameters or None)

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form as a page of this session does."""
        return self.http.post(path, data={"csrf": self.csrf, **fields})

    def read(self, path: str, **parameters: str) -> str:
        """Return the text of a page, which must be there."""
        response = self.get(path, **parameters)
        assert response.status_code == 200, f"{response.status_code}\n{response.text}"
        return response.text
