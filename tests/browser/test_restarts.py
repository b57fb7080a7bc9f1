"""Pages that stay open while the services restart, or while the browser is offline."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from headrace import Client, JobState
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_scheduler.service import Scheduler
from headrace_worker.service import WorkerService
from support.browser import Errors
from support.dashboard import gates, page_handlers
from support.jobs import history
from support.processes import gateway_and_web, restart
from support.proxy import Proxy
from support.server import Server

# The number of restarts; every restart takes seconds, so 30 of them are not part of all runs.
_RESTARTS = int(os.environ.get("HEADRACE_TEST_RESTARTS", "2"))
_FILTER = 'type = "page.double"'

# Records duplicate rows, and rows that have disappeared: all jobs fit on the first page.
_WATCH_ROWS = """
() => {
    window.faults = [];
    const seen = new Set();
    const check = () => {
        const keys = [...document.querySelectorAll("tr[data-key]")].map((row) => row.dataset.key);
        const now = new Set(keys);
        if (now.size !== keys.length) window.faults.push(`repeated: ${keys}`);
        for (const key of seen) if (!now.has(key)) window.faults.push(`lost: ${key}`);
        keys.forEach((key) => seen.add(key));
    };
    new MutationObserver(check).observe(document.querySelector("tbody"), { childList: true });
}
"""


class Platform:
    """A gateway and a web service as processes, and the other services in the test's loop.

    Attributes:
        gateway: the gateway.
        web: the web service.
        target: the address of the gateway.
        url: the address of the web service.
        database: a connection pool.
    """

    def __init__(
        self, *, gateway: Server, web: Server, target: str, url: str, database: Database
    ) -> None:
        self.gateway = gateway
        self.web = web
        self.target = target
        self.url = url
        self.database = database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    logs: Path = tmp_path_factory.mktemp("logs")
    async with AsyncExitStack() as stack:
        database = Database(module_settings, application="test")
        stack.push_async_callback(database.close)
        for service in (
            Scheduler(module_settings),
            WorkerService(module_settings, page_handlers()),
        ):
            await service.start()
            stack.push_async_callback(service.stop)
        gateway, web, target, address = await stack.enter_async_context(
            gateway_and_web(module_settings, logs=logs)
        )
        yield Platform(
            gateway=gateway, web=web, target=target, url=f"http://{address}", database=database
        )


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, platform: Platform) -> AsyncIterator[BrowserContext]:
    """Pages of the platform of this module."""
    context = await browser.new_context(base_url=platform.url)
    context.set_default_timeout(60_000)
    yield context
    await context.close()


async def open_live(context: BrowserContext, path: str) -> Page:
    """Open a page and wait until it is live."""
    page = await context.new_page()
    await page.goto(path)
    await expect(page.locator("#live")).to_have_text("Live")
    return page


async def row_keys(page: Page) -> list[str]:
    """Return the ids of the jobs on a page, in order."""
    keys: list[str] = await page.locator("tr[data-key]").evaluate_all(
        "(rows) => rows.map((row) => row.dataset.key)"
    )
    return keys


async def assert_shows_all_events(page: Page, database: Database, job_id: str) -> None:
    """Assert that the page of an ended job shows each stored event once, in order."""
    events = await history(database, JobId(uuid.UUID(job_id)))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    rows = [event for event in events if event.type is not EventType.OUTPUT]
    output = [event.output for event in events if event.type is EventType.OUTPUT]
    numbers = page.get_by_role("group", name="Events").locator("tbody tr td:first-child")
    await expect(numbers).to_have_text([str(event.seq) for event in rows])
    text = await page.get_by_role("region", name="Output").locator("pre").text_content()
    assert (text or "").splitlines() == [str(n) for n in range(1, len(output) + 1)]


async def test_restarts_lose_and_repeat_nothing(
    context: BrowserContext, errors: Errors, platform: Platform
) -> None:
    errors.expect("net::ERR_", "503", "502")
    gate = uuid.uuid4().hex
    submitted: list[str] = []

    async with Client(platform.target) as client:
        counting = await client.submit("page.counting", {"gate": gate})
        jobs = await open_live(context, f"/jobs?filter={_FILTER}")
        await jobs.evaluate(_WATCH_ROWS)
        job = await open_live(context, f"/jobs/{counting.id}")
        for number in range(_RESTARTS):
            submitted.append((await client.submit("page.double", {"number": number})).id)
            server = platform.gateway if number % 2 else platform.web
            by = signal.SIGKILL if number % 4 in (0, 3) else signal.SIGTERM
            await restart(server, by)
            submitted.append((await client.submit("page.double", {"number": number})).id)
            await expect(jobs.locator("tr[data-key]")).to_have_count(len(submitted))
            for page in (jobs, job):
                await expect(page.locator("#live")).to_have_text("Live")
        gates[gate].set()
        assert (await counting.finished()).state is JobState.SUCCEEDED

    await expect(job.locator(".heading .state")).to_have_text("SUCCEEDED")
    await assert_shows_all_events(job, platform.database, counting.id)
    await expect(jobs.locator("tr[data-key] .state", has_text="SUCCEEDED")).to_have_count(
        len(submitted)
    )
    assert await row_keys(jobs) == sorted(submitted, reverse=True)
    assert await jobs.evaluate("window.faults") == []


async def test_offline_tab_catches_up_without_a_gap(
    context: BrowserContext, errors: Errors, platform: Platform
) -> None:
    errors.expect("net::ERR_")
    gate = uuid.uuid4().hex
    # An offline browser makes no new requests, but open connections continue.
    proxy = Proxy(platform.url)
    await proxy.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(proxy.cut)
        client = await stack.enter_async_context(Client(platform.target))
        counting = await client.submit("page.counting", {"gate": gate})
        jobs = await open_live(context, f'http://{proxy.address}/jobs?filter=type = "page.failing"')
        job = await open_live(context, f"http://{proxy.address}/jobs/{counting.id}")
        await context.set_offline(True)
        await proxy.cut()
        for page in (jobs, job):
            await expect(page.locator("#live")).to_have_text("Reconnecting…")
        missed = [await client.submit("page.failing", None) for _ in range(5)]
        for each in missed:
            assert (await each.finished()).state is JobState.FAILED
        gates[gate].set()
        assert (await counting.finished()).state is JobState.SUCCEEDED
        await proxy.start()
        await context.set_offline(False)

        await expect(job.locator(".heading .state")).to_have_text("SUCCEEDED")
        await assert_shows_all_events(job, platform.database, counting.id)
        await expect(jobs.locator("tr[data-key] .state", has_text="FAILED")).to_have_count(5)
        assert await row_keys(jobs) == sorted((each.id for each in missed), reverse=True)
