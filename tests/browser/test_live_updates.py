"""Live updates of a page: only while it is visible, not paused, and nobody uses a form."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import SignIn
from tests.support.browser import BrowserSession
from tests.support.waiting import wait_until

INTERVAL_MS = 6_000
HIDE = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s})"


@pytest.fixture
def session(sign_in: SignIn) -> BrowserSession:
    return sign_in()


@pytest.fixture
def page(session: BrowserSession) -> Page:
    """The list of runs, with a clock that the test moves."""
    session.page.clock.install()
    session.page.goto("/runs")
    return session.page


@pytest.fixture
def updates(page: Page) -> list[Request]:
    """The requests of updates so far."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request) if request.resource_type == "fetch" else None)
    return requests


@pytest.fixture
def let_pass(page: Page) -> Callable[[], None]:
    """Lets the time between two updates pass, and a request begin."""

    def run_clock() -> None:
        page.clock.run_for(INTERVAL_MS)
        _pump(page)

    return run_clock


def test_a_page_updates_itself_and_keeps_the_focus(
    page: Page, updates: list[Request], let_pass: Callable[[], None]
) -> None:
    page.evaluate("document.querySelector('h1').id = 'outdated'")
    page.get_by_role("link", name="Incomplete").focus()
    let_pass()

    expect(page.locator("#outdated")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    expect(page.get_by_role("link", name="Incomplete")).to_be_focused()
    assert len(updates) == 1


def test_a_paused_page_stays_as_it_is_until_it_is_resumed(
    page: Page, updates: list[Request], let_pass: Callable[[], None]
) -> None:
    page.get_by_role("button", name="Pause updates").click()
    let_pass()
    page.goto("/runs")
    let_pass()
    assert not updates

    resume = page.get_by_role("button", name="Resume updates")
    expect(resume).to_have_attribute("aria-pressed", "true")
    resume.click()
    let_pass()
    wait_until(lambda: bool(_pump(page) and updates), what="an update")


def test_a_hidden_page_reads_nothing(
    page: Page, updates: list[Request], let_pass: Callable[[], None]
) -> None:
    page.evaluate(HIDE % "true")
    let_pass()
    let_pass()
    assert not updates

    page.evaluate(HIDE % "false")
    let_pass()
    wait_until(lambda: bool(_pump(page) and updates), what="an update")


def test_a_form_in_use_is_not_replaced(
    page: Page, updates: list[Request], let_pass: Callable[[], None]
) -> None:
    page.get_by_label("Account").press_sequentially("customer")
    let_pass()

    assert not updates
    expect(page.get_by_label("Account")).to_have_value("customer")


def test_a_failed_update_is_said_and_tried_again(
    session: BrowserSession, page: Page, let_pass: Callable[[], None]
) -> None:
    session.errors.allowed.add("net::ERR_FAILED")
    page.route("**/runs", lambda route: route.abort())
    let_pass()
    banner = page.locator("#stale")
    expect(banner).to_have_role("alert")
    expect(banner).to_contain_text("Outdated: the updates have failed since 2")
    # Above the page, not at its end.
    expect(banner).to_be_in_viewport()

    page.unroute("**/runs")
    page.clock.run_for(INTERVAL_MS * 2)
    expect(banner).to_be_hidden()


def _pump(page: Page) -> bool:
    """Deliver the page's events to this process."""
    page.wait_for_timeout(10)
    return True
