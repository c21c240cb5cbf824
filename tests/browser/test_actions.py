"""What people do on the pages, from the first look to the result, with real workers."""

import re

from playwright.sync_api import Page, expect

from app.clock import utc_now
from app.store.delete_checks import DeleteChecks
from app.store.runs import Runs
from tests.browser.conftest import SignIn
from tests.support.browser import assert_accessible, save_screenshot
from tests.support.dashboard_site import BROKEN_ACCOUNT, READ_PASSWORD, RECORDS_PER_PAGE, DashboardSite
from tests.support.delete_checks import build_check, save_check
from tests.support.waiting import measure_slowdown, wait_until


def _updated_ms() -> float:
    """Return a bound on the time until a page shows the work of the workers; longer on a busy machine."""
    # The monitor of the workers runs every 5 seconds, and pages are updated every 5 seconds.
    return 60_000 * measure_slowdown()


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


def test_the_one_incomplete_account_is_found_explained_and_repaired(
    sign_in: SignIn, site: DashboardSite
) -> None:
    page = sign_in(path="/?q=customer-").page
    tab = page.get_by_role("link", name=re.compile(r"Incomplete 1$"))
    # Without reloading: the page updates itself.
    expect(page.get_by_role("link", name=re.compile(r"Complete 499$"))).to_be_visible(timeout=_updated_ms())
    save_screenshot(page, "500-accounts")
    tab.click()
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(f"{RECORDS_PER_PAGE} missing")

    row.get_by_role("link", name=BROKEN_ACCOUNT).click()
    page.get_by_role("link", name="run-0317").click()
    page.get_by_role("region", name="Newest deliveries").locator("tr", has_text="dead").locator("a").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(site.dead_delivery))
    expect(page.locator("main")).to_contain_text("every worker that processed the delivery died")
    page.get_by_role("button", name="Replay").click()

    page.goto(f"/accounts/{BROKEN_ACCOUNT}")
    syncs = page.get_by_role("region", name="Syncs")
    expect(syncs.locator("tbody tr")).to_contain_text("complete", timeout=_updated_ms())
    expect(syncs.locator("tbody tr")).not_to_contain_text("incomplete", timeout=_updated_ms())
    page.goto("/audit")
    expect(page.locator("tbody")).to_contain_text(str(site.dead_delivery))


def test_a_running_run_is_stopped(sign_in: SignIn, site: DashboardSite) -> None:
    page = sign_in().page
    site.service.wait_until_settled()
    with site.running_simulation(records=4_000, batch_size=10, pause_s=0.2) as session:
        [run] = session.runs
        run_id = run.report.sync_job_run_id
        wait_until(lambda: Runs(site.store).get(run_id) is not None, what="a worker to write the run")
        page.goto(f"/runs/{run_id}")
        page.get_by_text("Stop run…").click()
        page.get_by_role("button", name="Stop run").click()

        expect(page.locator("main")).to_contain_text(
            re.compile("Stop requested|Truto accepted the stop|Stopped")
        )
        expect(page.locator("main")).to_contain_text("Stopped", timeout=_updated_ms())
        [report] = session.finish()

    assert report.status == "stopped"
    assert ("DELETE", f"/sync-job-run/{run_id}") in site.api.requests
    expect(page.get_by_role("button", name="Stop run")).to_have_count(0)


def test_a_set_of_failures_is_discarded_with_the_keyboard(sign_in: SignIn, site: DashboardSite) -> None:
    site.add_unrouted("hr/people", 3)
    site.add_unrouted("hr/teams", 2)
    page = sign_in(path="/failed?resource=hr/*").page
    expect(page.locator("tbody tr")).to_have_count(2)

    page.get_by_role("link", name="Discard no_route hr/people").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Discard 3 failed deliveries?")
    assert_accessible(page)
    save_screenshot(page, "discard")
    page.get_by_label("Reason, stored with them").focus()
    page.keyboard.type("the resource is not needed")
    _press(page, "Discard 3 failed deliveries")

    expect(page.locator("main")).to_contain_text("finished", timeout=_updated_ms())
    assert_accessible(page)
    save_screenshot(page, "operation")
    page.goto("/failed?resource=hr/*")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text("hr/teams")
    page.goto("/audit")
    expect(page.locator("tbody tr", has_text="failed.discard")).to_contain_text("3")


def test_a_sink_is_paused_and_resumed(sign_in: SignIn) -> None:
    page = sign_in(path="/sinks").page
    page.get_by_label("Reason").fill("moving the database")
    page.get_by_role("button", name="Pause main").click()
    expect(page.locator("tbody tr", has_text="main").first).to_contain_text("paused")
    expect(page.locator("main")).to_contain_text("moving the database")
    assert_accessible(page)
    save_screenshot(page, "sink-paused")

    page.get_by_role("button", name="Resume main").click()
    expect(page.locator("tbody tr", has_text="main").first).not_to_contain_text("paused")


def test_held_deletes_are_approved(sign_in: SignIn, site: DashboardSite) -> None:
    check = save_check(site.store, build_check("held-run", "over_share", at=utc_now()))
    page = sign_in(path="/sinks").page
    row = page.get_by_role("region", name="Deletes that are held back").locator("tbody tr")
    expect(row).to_contain_text("40 of 100 rows")
    row.get_by_text("Approve…").click()
    assert_accessible(page)
    save_screenshot(page, "held-deletes")
    row.get_by_role("button", name="Mark 40 rows as deleted").click()

    page.wait_for_url(f"{site.url}/runs/held-run")
    expect(page.locator("main")).to_contain_text("crm/contacts in main:")
    approved = DeleteChecks(site.store).get(check)
    assert approved
    assert approved.approved_by == "dashboard"
    page.goto("/audit")
    expect(page.locator("tbody tr", has_text="deletes.approve")).to_contain_text(str(check))


def test_a_read_only_session_sees_everything_and_changes_nothing(
    sign_in: SignIn, site: DashboardSite
) -> None:
    [delivery] = site.add_unrouted("hr/read-only", 1)
    session = sign_in(READ_PASSWORD)
    page = session.page
    for path in (f"/deliveries/{delivery}", "/failed", "/sinks", "/operations", "/runs/run-0000"):
        page.goto(path)
        forms = page.locator("main form[method=post]")
        assert forms.count() == 0, f"{path}: {forms.first.inner_html()}"
        expect(page.locator("footer")).to_contain_text("read-only")
    # A form with this session's own value, which such a page never shows.
    csrf = page.locator("header input[name=csrf]").get_attribute("value")
    for path in (f"/deliveries/{delivery}/replay", "/failed/discard", "/sinks/main/pause"):
        forged = session.context.request.post(f"{site.url}{path}", form={"csrf": csrf or "", "because": "x"})
        assert forged.status == 403, path
        assert "may only read" in forged.text()
    assert site.seeded.read_row(delivery)["state"] == "unrouted"
