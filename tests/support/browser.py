"""Chromium as a user's browser: pages that report every error, and accessibility checks."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

ColorScheme = Literal["light", "dark"]

PHONE_WIDTH, DESKTOP_WIDTH = 390, 1280
_HEIGHT = 900
# A busy machine is slow; a page that never answers must still end the test.
_TIMEOUT_MS = 15_000
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Start Chromium with an empty profile. Without one the test is skipped, or fails if CI is set."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        message = "no chromium in the PATH; install it: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    # Its own default of 5 s is too short on a busy machine.
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


# Without slots: Playwright adds an attribute to the object of a bound method.
@dataclass
class PageErrors:
    """Errors of the pages of one context: of scripts, of the content policy, and requests to other hosts.

    allowed: parts of the messages of errors that the test provokes.
    """

    host: str
    messages: list[str] = field(default_factory=list)
    allowed: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Fail if there was an error since the last check."""
        messages, self.messages = self.messages, []
        assert not messages, "\n".join(messages)

    def watch(self, context: BrowserContext) -> None:
        """Collect the errors of all pages of a context."""
        context.on("console", self._add_console_message)
        context.on("weberror", lambda error: self.messages.append(f"script: {error.error}"))
        context.on("request", self._add_request)

    def _add_console_message(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        is_allowed = any(part in message.text for part in self.allowed)
        if not is_allowed:
            self.messages.append(f"console: {message.text} {message.location['url']}")

    def _add_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != self.host:
            self.messages.append(f"request to {request.url}")


class BrowserSession:
    """The pages of one user, with the cookies of one sign-in. errors: of all pages so far."""

    def __init__(self, context: BrowserContext, base_url: str) -> None:
        self.context = context
        self.errors = PageErrors(urlsplit(base_url).netloc)
        self.errors.watch(context)
        context.set_default_timeout(_TIMEOUT_MS)
        self.page: Page = context.new_page()


@contextmanager
def browser_session(
    browser: Browser,
    base_url: str,
    *,
    color_scheme: ColorScheme = "light",
    width: int = DESKTOP_WIDTH,
    has_javascript: bool = True,
) -> Iterator[BrowserSession]:
    """Open a page of a new user; fail at the end if a page had an error."""
    context = browser.new_context(
        base_url=base_url,
        color_scheme=color_scheme,
        viewport={"width": width, "height": _HEIGHT},
        java_script_enabled=has_javascript,
        reduced_motion="reduce",
    )
    session = BrowserSession(context, base_url)
    try:
        yield session
    finally:
        # Also delivers the events that are still on their way.
        context.close()
    session.errors.check()


def assert_accessible(page: Page) -> None:
    """Fail if axe finds a violation, with the elements that have it."""
    results = Axe().run(page)
    violations = [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}: {node['failureSummary']}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]
    assert not violations, "\n".join([page.url, *violations])


def assert_fits(page: Page) -> None:
    """Fail if the page scrolls horizontally."""
    script = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, window = page.evaluate(script)
    assert content <= window, f"{page.url} is {content} px wide in a window of {window} px"


def save_screenshot(page: Page, name: str) -> None:
    """Save the whole page as a picture in the folder that SCREENSHOTS names, if it is set."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
