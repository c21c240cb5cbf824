"""Access in a browser: signing in, sessions, roles and the keyboard."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SignIn
from tests.support.browser import PHONE_WIDTH, BrowserSession, assert_accessible, assert_fits
from tests.support.dashboard_site import PASSWORD, READ_PASSWORD, DashboardSite

OpenSession = Callable[..., BrowserSession]


def test_a_page_leads_through_the_sign_in_and_back_to_itself(open_session: OpenSession) -> None:
    page = open_session().page
    page.goto("/audit?after=")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()

    page.wait_for_url("/audit?after=")
    assert page.get_by_role("heading", level=1).inner_text() == "Actions"


def test_a_wrong_password_is_refused_in_words(open_session: OpenSession) -> None:
    session = open_session()
    session.errors.allowed.add("status of 401")
    page = session.page
    page.goto("/login")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()

    assert page.get_by_role("alert").inner_text() == "The password is wrong."
    assert_accessible(page)


def test_signing_in_and_out_needs_no_mouse(open_session: OpenSession) -> None:
    page = open_session().page
    page.goto("/audit")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("/audit")

    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Sign out":
            break
    page.keyboard.press("Enter")

    page.wait_for_url("/login")


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE_WIDTH, 1280])
def test_the_sign_in_page_is_accessible(open_session: OpenSession, color_scheme: str, width: int) -> None:
    page = open_session(color_scheme=color_scheme, width=width).page
    page.goto("/login")

    assert_accessible(page)
    assert_fits(page)


def test_another_site_cannot_act_with_the_session(sign_in: SignIn, site: DashboardSite) -> None:
    session = sign_in()
    [cookie] = session.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"

    forged = session.context.request.post(f"{site.url}/logout", form={"csrf": "guessed"}, max_redirects=0)

    assert forged.status == 403
    assert "The form was not sent by this page" in forged.text()
    session.page.goto("/audit")
    assert session.page.get_by_role("heading", level=1).inner_text() == "Actions"


def test_a_session_that_ended_leads_to_the_sign_in(sign_in: SignIn, site: DashboardSite) -> None:
    session = sign_in(READ_PASSWORD)
    session.context.clear_cookies()
    session.page.goto("/audit")

    assert session.page.url == f"{site.url}/login?next=/audit"
