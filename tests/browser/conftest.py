"""One Chromium and one service for all browser tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import BrowserSession, browser_session, running_chromium
from tests.support.dashboard_site import PASSWORD, DashboardSite, running_site
from tests.support.postgres import PostgresServer

SignIn = Callable[..., BrowserSession]


# Closed after the package: while Playwright runs, no other test can run an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_chromium() as started:
        yield started


@pytest.fixture(scope="package")
def site(
    browser: Browser, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DashboardSite]:
    """The service with 500 customers; without Chromium it is not started."""
    folder = tmp_path_factory.mktemp("site")
    with postgres.database() as url, running_site(folder, url) as started:
        started.add_customers()
        yield started


@pytest.fixture
def open_session(browser: Browser, site: DashboardSite) -> Iterator[Callable[..., BrowserSession]]:
    """Opens pages of new users; every page error fails the test."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> BrowserSession:
            return stack.enter_context(browser_session(browser, site.url, **options))

        yield open_one


@pytest.fixture
def sign_in(open_session: Callable[..., BrowserSession], site: DashboardSite) -> SignIn:
    """Signs in through the form; returns the session, on the page with this path."""

    def sign_in_with(password: str = PASSWORD, *, path: str = "/audit", **options: Any) -> BrowserSession:
        session = open_session(**options)
        session.page.goto(path)
        session.page.get_by_label("Password").fill(password)
        session.page.get_by_role("button", name="Sign in").click()
        session.page.wait_for_url(site.url + path)
        return session

    return sign_in_with


@pytest.fixture
def page(sign_in: SignIn) -> Page:
    """A page of a user who may act."""
    return sign_in().page
