"""What people do on the pages, from the first look to the result, with real workers."""

import re
from uuid import UUID

from playwright.sync_api import Page, expect

from tests.browser.conftest import SignIn
from tests.support.browser import save_screenshot
from tests.support.dashboard_site import BROKEN_ACCOUNT, RECORDS_PER_PAGE, DashboardSite
from tests.support.waiting import wait_until

# The monitor of the workers runs every 5 seconds, and pages are updated every 5 seconds.
UPDATED_MS = 60_000


def _press(page: Page, text: str) -> None:
    """Press a link or button with the keyboard alone."""
    script = "document.activeElement.innerText"
    page.evaluate("document.activeElement.blur()")
    for _ in range(200):
        page.keyboard.press("Tab")
        if (page.evaluate(script) or "").strip() == text:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"{text!r} cannot be reached with the Tab key on {page.url}")


def test_the_one_incomplete_account_is_found_explained_and_repaired(sign_in: SignIn, customers: UUID) -> None:
    page = sign_in(path="/?q=customer-").page
    tab = page.get_by_role("link", name=re.compile(r"Incomplete 1$"))
    # Without reloading: the page updates itself.
    expect(tab).to_be_visible(timeout=UPDATED_MS)
    expect(page.get_by_role("link", name=re.compile(r"All 500$"))).to_be_visible()
    save_screenshot(page, "500-accounts")
    tab.click()
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(f"{RECORDS_PER_PAGE} missing")

    row.get_by_role("link", name=BROKEN_ACCOUNT).click()
    page.get_by_role("link", name="run-0317").click()
    page.locator("tbody tr", has_text="dead").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(customers))
    expect(page.locator("main")).to_contain_text("every worker that processed the delivery died")
    page.get_by_role("button", name="Replay").click()

    page.goto(f"/accounts/{BROKEN_ACCOUNT}")
    syncs = page.get_by_role("region", name="Syncs")
    expect(syncs.locator("tbody tr")).to_contain_text("complete", timeout=UPDATED_MS)
    expect(syncs.locator("tbody tr")).not_to_contain_text("incomplete", timeout=UPDATED_MS)
    page.goto("/audit")
    expect(page.locator("tbody")).to_contain_text(str(customers))


def test_a_running_run_is_stopped(sign_in: SignIn, site: DashboardSite) -> None:
    page = sign_in().page
    with site.running_simulation(records=4_000, batch_size=10, pause_s=0.2) as session:
        [run] = session.runs
        run_id = run.report.sync_job_run_id
        wait_until(lambda: bool(run.report.persisted), what="a page of the run")
        page.goto(f"/runs/{run_id}")
        page.get_by_text("Stop run…").click()
        page.get_by_role("button", name="Stop run").click()

        expect(page.locator("main")).to_contain_text(
            re.compile("Stop requested|Truto accepted the stop|Stopped")
        )
        expect(page.locator("main")).to_contain_text("Stopped", timeout=UPDATED_MS)
        [report] = session.finish()

    assert report.status == "stopped"
    assert ("DELETE", f"/sync-job-run/{run_id}") in site.api.requests
    expect(page.get_by_role("button", name="Stop run")).to_have_count(0)
