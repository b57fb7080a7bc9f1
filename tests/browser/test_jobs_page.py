"""Actions on many jobs, saved views, the completion of filters, and edited submits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Locator, Page, Route, expect

from headrace import Client
from support.browser import Errors
from support.dashboard import Dashboard

# No worker runs this type, so its jobs stay queued.
_WAITING = "unknown.waiting"
# More jobs than the first page has.
_MANY = 60
# The largest number of calls that the page has in flight.
_IN_FLIGHT = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(dashboard: Dashboard) -> AsyncIterator[Client]:
    async with Client(dashboard.target) as client:
        yield client


async def submit_waiting(client: Client, label: str, count: int) -> None:
    """Submit jobs that stay queued."""
    for _ in range(count):
        await client.submit(_WAITING, None, labels={"test": label})


async def open_jobs(page: Page, filter_text: str) -> None:
    """Open the jobs that match a filter, and wait until the page is live."""
    await page.goto(f"/jobs?filter={filter_text}")
    await expect(page.locator("#live")).to_have_text("Live")


async def act_on_all(page: Page, action: str, confirmation: str) -> Locator:
    """Act on all jobs that match the filter; return the dialog with the progress."""
    await page.get_by_label("Select all on this page").check()
    await page.get_by_role("button", name="Select all that match").click()
    await page.get_by_role("button", name=action).click()
    await page.get_by_role("dialog").get_by_label("Reason").fill("cleanup")
    await page.get_by_role("dialog").get_by_role("button", name=confirmation).click()
    return page.get_by_role("dialog")


async def test_cancel_of_all_that_match_reaches_jobs_beyond_the_page(
    page: Page, client: Client
) -> None:
    await submit_waiting(client, "all", _MANY)
    await open_jobs(page, 'labels.test = "all"')
    await expect(page.locator("tr[data-key]")).to_have_count(50)
    dialog = await act_on_all(page, "Cancel…", "Cancel jobs")
    await expect(dialog).to_contain_text(f"Finished. {_MANY} of {_MANY} done.")
    await dialog.get_by_role("button", name="Close").click()
    await expect(page.locator("tr[data-key] .state", has_text="CANCELLED")).to_have_count(50)
    cancelled = [job async for job in client.list('labels.test = "all" AND state = CANCELLED')]
    assert len(cancelled) == _MANY


async def test_refused_jobs_are_counted_with_their_error(
    page: Page, client: Client, errors: Errors
) -> None:
    errors.expect("status of 4")
    for _ in range(3):
        job = await client.submit("page.double", {"number": 1}, labels={"test": "refused"})
        await job.finished()
    await submit_waiting(client, "refused", 2)
    await open_jobs(page, 'labels.test = "refused"')
    dialog = await act_on_all(page, "Cancel…", "Cancel jobs")
    await expect(dialog).to_contain_text("Finished. 2 of 5 done, 3 refused.")
    # Each error names its job.
    await expect(dialog.get_by_role("listitem").filter(has_text="SUCCEEDED")).to_have_count(3)


async def test_rows_can_be_selected_once_they_have_arrived(page: Page, client: Client) -> None:
    await submit_waiting(client, "late", 1)
    released = asyncio.Event()

    async def hold(route: Route) -> None:
        await released.wait()
        await route.continue_()

    await page.route("**/feed/jobs?*", hold)
    await page.goto('/jobs?filter=labels.test = "late"')
    select_all = page.get_by_label("Select all on this page")
    await expect(select_all).to_be_disabled()
    released.set()
    await expect(select_all).to_be_enabled()
    await select_all.check()
    await expect(page.get_by_text("1 selected")).to_be_visible()


async def test_stop_ends_bounded_batch(page: Page, client: Client) -> None:
    await submit_waiting(client, "stopped", _MANY)
    stopped = asyncio.Event()
    arrived = asyncio.Semaphore(0)

    async def hold(route: Route) -> None:
        arrived.release()
        await stopped.wait()
        await route.continue_()

    await page.route("**/*:cancel", hold)
    await open_jobs(page, 'labels.test = "stopped"')
    dialog = await act_on_all(page, "Cancel…", "Cancel jobs")
    for _ in range(_IN_FLIGHT):
        await arrived.acquire()
    await dialog.get_by_role("button", name="Stop").click()
    stopped.set()
    await expect(dialog).to_contain_text(f"Stopped. {_IN_FLIGHT} of {_MANY} done.")
    assert arrived.locked(), "more calls were in flight"


async def test_retry_of_selected_jobs_leaves_other_jobs(page: Page, client: Client) -> None:
    jobs = [
        await client.submit("page.failing", None, labels={"test": "selected"}) for _ in range(3)
    ]
    for job in jobs:
        await job.finished()
    await open_jobs(page, 'labels.test = "selected"')
    for job in jobs[:2]:
        await page.get_by_label(f"Select job {job.id}").check()
    await expect(page.get_by_text("2 selected")).to_be_visible()
    await page.get_by_role("button", name="Retry…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry jobs").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Finished. 2 of 2 done.")
    await dialog.get_by_role("button", name="Close").click()
    for job, attempts in zip(jobs, ("2", "2", "1"), strict=True):
        row = page.locator(f'tr[data-key="{job.id}"]')
        await expect(row.locator("td.number").first).to_have_text(attempts)
        await expect(row).to_contain_text("FAILED")


async def test_saved_view_survives_reload_until_deleted(page: Page) -> None:
    await open_jobs(page, 'queue = "slow" AND state = RUNNING')
    await page.get_by_role("button", name="Save view…").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("Slow and busy")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(page.get_by_role("link", name="Slow and busy")).to_be_visible()
    await open_jobs(page, "")
    await page.get_by_role("link", name="Slow and busy").click()
    field = page.get_by_label("Filter", exact=True)
    await expect(field).to_have_value('queue = "slow" AND state = RUNNING')
    await page.reload()
    await expect(field).to_have_value('queue = "slow" AND state = RUNNING')
    await page.get_by_role("button", name="Delete view").click()
    await expect(page.get_by_role("link", name="Slow and busy")).to_have_count(0)


async def test_filter_completes_types_of_stored_jobs(page: Page, client: Client) -> None:
    await (await client.submit("page.double", {"number": 1})).finished()
    await open_jobs(page, "")
    field = page.get_by_label("Filter", exact=True)
    await field.fill("")
    await field.press_sequentially("ty")
    await page.get_by_role("option", name="type").click()
    await field.press_sequentially('= "page.dou')
    await page.get_by_role("option", name="page.double").click()
    await field.press_sequentially("AN")
    await page.get_by_role("option", name="AND").click()
    await expect(field).to_have_value('type = "page.double" AND ')
    await field.press_sequentially("state = SUC")
    await page.get_by_role("option", name="SUCCEEDED").click()
    await page.get_by_role("button", name="Filter", exact=True).click()
    await expect(page.locator("tr[data-key]").first).to_contain_text("page.double")


async def test_edited_job_keeps_its_other_options(page: Page, client: Client) -> None:
    original = await client.submit("page.double", {"number": 4}, labels={"team": "ml"}, priority=7)
    await original.finished()
    await page.goto(f"/submit?like={original.id}")
    await page.get_by_label("number", exact=True).fill("5")
    await expect(page.get_by_text("Valid.")).to_be_visible()
    await page.get_by_role("button", name="Submit", exact=True).click()
    await expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}"))
    await expect(page.get_by_role("region", name="Result").locator("pre")).to_contain_text("10")
    copy = await client.get(page.url.rpartition("/")[2])
    assert copy.id != original.id
    assert (copy.labels, copy.priority) == ({"team": "ml"}, 7)
