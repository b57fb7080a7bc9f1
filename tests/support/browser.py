"""Steps and checks of tests in a browser."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, expect

_AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
# The pages that load their data once.
_STATIC_PAGES = ("/submit", "/keys", "/users", "/tenants", "/audit")
# A page that closes or is left cancels its requests.
_CANCELLED = "net::ERR_ABORTED"


class Errors:
    """Collects errors of scripts, failed requests, and violations of the content security policy.

    Args:
        context: the context of the browser's pages.

    Attributes:
        unexpected: the errors that no test expects.
        seen: the expected errors.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.unexpected: list[str] = []
        self.seen: list[str] = []
        self._expected: list[str] = []
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self._add(f"script: {error.error}"))
        context.on("requestfailed", self._on_failure)

    def expect(self, *texts: str) -> None:
        """Expect errors that contain one of these texts."""
        self._expected += texts

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._add(f"console: {message.text} {message.location.get('url', '')}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != _CANCELLED:
            self._add(f"request: {request.url}: {request.failure}")

    def _add(self, error: str) -> None:
        expected = any(text in error for text in self._expected)
        (self.seen if expected else self.unexpected).append(error)


async def violations(page: Page) -> list[str]:
    """Return the violations of axe-core's rules on a page."""
    await page.evaluate(_AXE)
    results = await page.evaluate("axe.run()")
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in results["violations"]
        for node in rule["nodes"]
    ]


async def open_page(page: Page, path: str) -> None:
    """Open a page and wait until it shows its data, and is live if it follows changes."""
    await page.goto(path)
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator("main .loading")).to_have_count(0)
    if not path.startswith(_STATIC_PAGES):
        await expect(page.locator("#live")).to_have_text("Live")
