"""Every page in a browser: accessible, narrow enough for a phone, without scripts, and safe from records."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import (
    DESKTOP_WIDTH,
    PHONE_WIDTH,
    BrowserSession,
    ColorScheme,
    assert_accessible,
    assert_fits,
    browser_session,
    save_screenshot,
)
from tests.support.dashboard_site import (
    BROKEN_ACCOUNT,
    BROKEN_RUN,
    HOSTILE,
    HOSTILE_ACCOUNT,
    HOSTILE_RUN,
    PASSWORD,
    DashboardSite,
)

HEIGHT = 900
# The name of a page, and its path without the ids of this site.
PAGES = {
    "accounts": "/",
    "account": "/accounts/{broken_account}",
    "overview": "/overview",
    "runs": "/runs",
    "run": "/runs/{broken_run}",
    "deliveries": "/deliveries",
    "delivery": "/deliveries/{broken_delivery}",
    "body": "/deliveries/{broken_delivery}/body",
    "failed": "/failed",
    "operations": "/operations",
    "sinks": "/sinks",
    "routes": "/routes",
    "routes-answer": "/routes?resource=crm/contacts&method=list",
    "audit": "/audit",
    "no-match": "/runs?account=nobody",
}
HOSTILE_PAGES = {
    "accounts": "/?q=account",
    "account": "/accounts/{hostile_account}",
    "runs": "/runs?account={hostile_account}",
    "run": "/runs/{hostile_run}",
    "deliveries": "/deliveries?run={hostile_run}",
    "delivery": "/deliveries/{hostile_delivery}",
    "body": "/deliveries/{hostile_delivery}/body",
    "failed": "/failed?run={hostile_run}",
}


@dataclass(frozen=True, slots=True)
class SeededSite:
    """The site with its customers."""

    url: str
    broken_delivery: UUID
    hostile_delivery: UUID

    def fill(self, path: str) -> str:
        """Return a path with the ids of this site."""
        return path.format(
            broken_account=BROKEN_ACCOUNT,
            broken_run=BROKEN_RUN,
            broken_delivery=self.broken_delivery,
            hostile_account=quote(HOSTILE_ACCOUNT, safe=""),
            hostile_run=quote(HOSTILE_RUN, safe=""),
            hostile_delivery=self.hostile_delivery,
        )


@pytest.fixture(scope="module")
def seeded(site: DashboardSite) -> SeededSite:
    assert site.dead_delivery
    return SeededSite(site.url, site.dead_delivery, site.add_hostile_run()[0])


def _sign_in(page: Page) -> None:
    page.goto("/audit")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("/audit")


# One session for all pages: signing in takes longer than showing a page.
@pytest.fixture(scope="module")
def shared(browser: Browser, seeded: SeededSite) -> Iterator[BrowserSession]:
    with browser_session(browser, seeded.url) as session:
        _sign_in(session.page)
        yield session


@pytest.fixture(scope="module")
def without_javascript(browser: Browser, seeded: SeededSite) -> Iterator[BrowserSession]:
    with browser_session(browser, seeded.url, has_javascript=False) as session:
        _sign_in(session.page)
        yield session


def _open(session: BrowserSession, path: str) -> Page:
    # Of this page alone.
    session.errors.messages.clear()
    response = session.page.goto(path)
    assert response is not None
    assert response.status == 200, f"{path}: {response.status} {session.page.locator('body').inner_text()}"
    return session.page


def _assert_nothing_ran(session: BrowserSession) -> None:
    assert session.page.title() != "executed"
    assert not session.page.locator("main :is(script, img, iframe, object)").count()
    session.errors.check()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits_on_a_phone(
    shared: BrowserSession, seeded: SeededSite, name: str
) -> None:
    page = _open(shared, seeded.fill(PAGES[name]))

    assert page.get_by_role("heading", level=1).count() == 1
    variants: list[tuple[int, ColorScheme]] = [(DESKTOP_WIDTH, "light"), (PHONE_WIDTH, "dark")]
    for width, color_scheme in variants:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.emulate_media(color_scheme=color_scheme)
        assert_accessible(page)
        assert_fits(page)
        save_screenshot(page, f"{name}-{width}-{color_scheme}")
    page.set_viewport_size({"width": DESKTOP_WIDTH, "height": HEIGHT})
    page.emulate_media(color_scheme="light")
    shared.errors.check()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_works_without_javascript(
    without_javascript: BrowserSession, seeded: SeededSite, name: str
) -> None:
    page = _open(without_javascript, seeded.fill(PAGES[name]))

    assert page.get_by_role("heading", level=1).is_visible()
    # A button that needs a script is hidden.
    assert not page.get_by_role("button", name="Pause updates").is_visible()


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_nothing_of_a_record_runs_in_the_browser(
    shared: BrowserSession, seeded: SeededSite, name: str
) -> None:
    page = _open(shared, seeded.fill(HOSTILE_PAGES[name]))

    _assert_nothing_ran(shared)
    assert "<script>" in page.locator("main").inner_text()
    page.set_viewport_size({"width": PHONE_WIDTH, "height": HEIGHT})
    assert_fits(page)
    save_screenshot(page, f"hostile-{name}")
    assert_accessible(page)
    page.set_viewport_size({"width": DESKTOP_WIDTH, "height": HEIGHT})


def test_a_link_to_a_hostile_run_leads_to_it(shared: BrowserSession, seeded: SeededSite) -> None:
    page = _open(shared, seeded.fill("/runs?account={hostile_account}"))
    page.get_by_role("link", name="run/..").click()

    assert HOSTILE.partition("\u202e")[0] in page.get_by_role("heading", level=1).inner_text()
    _assert_nothing_ran(shared)
