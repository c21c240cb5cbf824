"""The browser tests' own checks: each one fails on a page that it must reject."""

import pytest
from playwright.sync_api import Browser

from tests.support.browser import assert_accessible, assert_fits, browser_session

URL = "http://127.0.0.1:9"
GOOD_PAGE = '<html lang="en"><head><title>Runs</title></head><body><main><h1>Runs</h1></main></body></html>'


def test_a_page_without_faults_passes_every_check(browser: Browser) -> None:
    with browser_session(browser, URL) as session:
        session.page.set_content(GOOD_PAGE)

        assert_accessible(session.page)
        assert_fits(session.page)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("<script>missing()</script>", "missing is not defined"),
        ("<script>console.error('broken')</script>", "broken"),
        ('<img alt="" src="http://127.0.0.2:9/pixel">', "request to http://127.0.0.2:9/pixel"),
        (
            """<meta http-equiv="Content-Security-Policy" content="script-src 'none'"><script>1</script>""",
            "Content Security Policy",
        ),
    ],
    ids=["exception", "console", "other host", "content policy"],
)
def test_a_fault_of_a_page_fails_the_test(browser: Browser, fault: str, message: str) -> None:
    def open_page() -> None:
        with browser_session(browser, URL) as session:
            session.page.set_content(GOOD_PAGE.replace("</h1>", f"</h1>{fault}"))

    with pytest.raises(AssertionError, match=message):
        open_page()


def test_an_inaccessible_page_is_rejected(browser: Browser) -> None:
    with browser_session(browser, URL) as session:
        session.page.set_content(GOOD_PAGE.replace("</h1>", '</h1><input name="run">'))

        with pytest.raises(AssertionError, match="label"):
            assert_accessible(session.page)


def test_a_page_that_scrolls_sideways_is_rejected(browser: Browser) -> None:
    with browser_session(browser, URL, width=390) as session:
        session.page.set_content(GOOD_PAGE.replace("<main>", '<main style="width: 900px">'))

        with pytest.raises(AssertionError, match="px wide in a window of 390 px"):
            assert_fits(session.page)
