"""A real browser, and a page that fails the test on any error that the browser reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from headrace_core.runtime.settings import Settings
from support.browser import Errors
from support.dashboard import Dashboard, running_dashboard

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)
_TIMEOUT_MS = 30_000
expect.set_options(timeout=_TIMEOUT_MS)
# The locations of chromium in Debian, Alpine and Fedora.
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of a module in the loop of its platform and its browser."""
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


def _chromium() -> str:
    path = os.environ.get("HEADRACE_TEST_CHROMIUM") or next(
        filter(None, map(shutil.which, _NAMES)), ""
    )
    if path:
        return path
    reason = "chromium is not installed; install it or set HEADRACE_TEST_CHROMIUM to its path"
    if os.environ.get("HEADRACE_TEST_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium without a window."""
    path = _chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dashboard(module_settings: Settings) -> AsyncIterator[Dashboard]:
    """A platform without access control."""
    async with running_dashboard(module_settings) as dashboard:
        yield dashboard


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, dashboard: Dashboard) -> AsyncIterator[BrowserContext]:
    """Pages with cookies and storage of their own."""
    context = await browser.new_context(base_url=dashboard.url)
    context.set_default_timeout(_TIMEOUT_MS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def errors(context: BrowserContext) -> AsyncIterator[Errors]:
    """The errors of all pages. A test fails if there is one that it does not expect."""
    errors = Errors(context)
    yield errors
    assert not errors.unexpected


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext, errors: Errors) -> Page:
    """A page of the browser."""
    return await context.new_page()
