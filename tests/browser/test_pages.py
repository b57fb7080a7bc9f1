"""The pages of the dashboard in a browser."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from headrace import Client
from headrace_web.pages.routes import PAGES
from support.browser import Errors, open_page, violations
from support.dashboard import Dashboard, gates

PHONE = {"width": 360, "height": 740}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(dashboard: Dashboard) -> AsyncIterator[Client]:
    async with Client(dashboard.target) as client:
        yield client


@pytest.fixture
def gate() -> str:
    """The name of a gate, which opens at the end of the test."""
    return uuid.uuid4().hex


@pytest_asyncio.fixture(loop_scope="module")
async def running_job(client: Client, gate: str) -> AsyncIterator[str]:
    """The id of a job that has reported progress and output, and waits at its gate."""
    job = await client.submit("page.gated", {"gate": gate})
    async with aclosing(client.watch_job(job.id)) as events:
        async for event in events:
            if event.output == {"token": "second"}:
                break
    yield job.id
    gates[gate].set()


@pytest.mark.parametrize("script", [each.script for each in PAGES])
async def test_page_is_accessible_and_fits_a_phone(
    page: Page, running_job: str, script: str
) -> None:
    [path] = [each.path for each in PAGES if each.script == script]
    await page.emulate_media(color_scheme="light")
    await open_page(page, path.replace("{id}", running_job))
    assert await violations(page) == []
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size(PHONE)
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert await violations(page) == []


async def test_overview_follows_the_jobs(
    page: Page, client: Client, running_job: str, gate: str
) -> None:
    await open_page(page, "/")
    states = page.get_by_role("group", name="Jobs by state")
    running = states.get_by_role("link", name="RUNNING")
    await expect(running).to_contain_text(re.compile(r"[1-9]"))
    await expect(page.get_by_role("row", name="slow")).to_be_visible()
    job = await client.submit("page.failing", None)
    await expect(page.get_by_role("row", name="page.failing BrokenInput")).to_be_visible()
    await page.get_by_role("row", name="page.failing").get_by_role("link").last.click()
    await expect(page).to_have_url(re.compile(job.id))


async def test_row_of_job_is_updated_in_place(
    page: Page, client: Client, running_job: str, gate: str
) -> None:
    await open_page(page, '/jobs?filter=queue = "slow"')
    row = page.locator(f'tr[data-key="{running_job}"]')
    await expect(row).to_contain_text("RUNNING")
    element = await row.element_handle()
    other = await client.submit("page.gated", {"gate": gate})
    await expect(page.locator("tbody tr").first).to_have_attribute("data-key", other.id)
    gates[gate].set()
    await expect(row).to_contain_text("SUCCEEDED")
    assert element is not None
    assert await element.evaluate("(row) => row.isConnected")
    keys = await page.locator("tbody tr").evaluate_all(
        "(rows) => rows.map((row) => row.dataset.key)"
    )
    assert len(keys) == len(set(keys))
    await page.get_by_role("link", name=running_job[-12:]).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("page.gated")


async def test_job_page_shows_each_event_live(page: Page, running_job: str, gate: str) -> None:
    await open_page(page, f"/jobs/{running_job}")
    await expect(page.get_by_role("heading", name="Progress 50 %")).to_be_visible()
    output = page.get_by_role("region", name="Output").locator("pre")
    await expect(output).to_contain_text('first line\n{"token":"second"}')
    events = page.get_by_role("group", name="Events").locator("tbody tr")
    await expect(events).to_have_count(2)
    gates[gate].set()
    await expect(events).to_have_count(3)
    assert [text.split("\t")[2] for text in await events.all_inner_texts()] == [
        "SUBMITTED",
        "STARTED",
        "SUCCEEDED",
    ]
    await expect(page.get_by_role("region", name="Result").locator("pre")).to_have_text('"open"')
    # The page continues to follow the job, in case it is retried.
    await expect(page.locator("#live")).to_have_text("Live")
    await expect(output).to_contain_text('first line\n{"token":"second"}')


async def test_job_page_follows_the_log(page: Page, running_job: str, gate: str) -> None:
    await open_page(page, f"/jobs/{running_job}")
    panel = page.get_by_role("region", name="Log")
    lines = panel.locator(".line:visible")
    await expect(lines).to_have_count(2)
    await expect(lines.first).to_contain_text(re.compile(r"INFO pages half done$"))
    await expect(panel.get_by_label("Attempt")).to_be_hidden()
    await panel.get_by_label("Lowest level").select_option("WARNING")
    await expect(lines).to_have_count(1)
    await expect(lines).to_contain_text("waiting for the gate")
    async with page.expect_download() as started:
        await panel.get_by_role("button", name="Download").click()
    download = await started.value
    assert download.suggested_filename == f"{running_job}.log"
    text = Path(await download.path()).read_text()
    assert re.fullmatch(r"\S+Z WARNING pages: waiting for the gate\n", text)
    # A retried job logs in a new attempt.
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    await expect(page.locator(".heading .state")).to_have_text("CANCELLED")
    await page.get_by_role("button", name="Retry").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    await panel.get_by_label("Lowest level").select_option("DEBUG")
    await expect(lines).to_have_count(4)
    await panel.get_by_label("Attempt").select_option("Attempt 2")
    await expect(lines).to_have_count(2)
    assert await violations(page) == []
    gates[gate].set()


async def test_id_can_be_copied_without_a_clipboard(page: Page, running_job: str) -> None:
    # Over plain HTTP from another machine, browsers have no clipboard.
    await page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    )
    await open_page(page, f"/jobs/{running_job}")
    await page.evaluate(
        "document.addEventListener('copy', () => { window.copied = getSelection().toString() "
        "|| document.activeElement.value; })"
    )
    await page.get_by_role("button", name="Copy id").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("window.copied") == running_job
    await expect(page.locator("textarea.visually-hidden")).to_have_count(0)


async def test_cancel_asks_for_a_reason(page: Page, running_job: str) -> None:
    await open_page(page, f"/jobs/{running_job}")
    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Reason").fill("no longer needed")
    assert await violations(page) == []
    await dialog.get_by_role("button", name="Cancel the job").click()
    await expect(page.get_by_role("group", name="Events")).to_contain_text("no longer needed")
    await expect(page.locator(".heading .state")).to_have_text("CANCELLED")
    await page.get_by_role("button", name="Retry").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    await expect(page.locator(".heading .state")).to_have_text("RUNNING")


async def test_submit_form_is_made_from_the_schema(page: Page, errors: Errors) -> None:
    errors.expect("400")
    await open_page(page, "/submit?type=page.double")
    number = page.get_by_label("number", exact=True)
    await number.fill("many")
    await expect(page.get_by_role("alert")).to_have_text("must be a number")
    await expect(number).to_have_attribute("aria-invalid", "true")
    await number.fill("21")
    await expect(page.get_by_text("Valid.")).to_be_visible()
    await page.get_by_label("polite").check()
    await page.get_by_role("button", name="Add an item").click()
    await page.get_by_label("Item 1").fill("thanks")
    await expect(page.get_by_label("curl", exact=True)).to_contain_text('"notes":["thanks"]')
    assert await violations(page) == []
    await page.get_by_role("button", name="Submit", exact=True).click()
    await expect(page).to_have_url(re.compile("/jobs/"))
    await expect(page.get_by_role("region", name="Result").locator("pre")).to_contain_text("42")
    await page.get_by_role("link", name="Edit and submit again").click()
    await expect(page.get_by_label("number", exact=True)).to_have_value("21")


async def test_violation_of_the_gateway_is_shown_at_its_field(page: Page, errors: Errors) -> None:
    errors.expect("400")
    await open_page(page, "/submit?type=page.double")
    await page.get_by_text("Options").click()
    await page.get_by_label("number", exact=True).fill("1")
    queue = page.get_by_label("Queue")
    await queue.fill("not a name!")
    await expect(queue).to_have_attribute("aria-invalid", "true")


async def test_malformed_filter_is_shown_at_its_field(page: Page, errors: Errors) -> None:
    errors.expect("400")
    await page.goto("/jobs?filter=colour = red")
    await expect(page.get_by_role("alert")).to_contain_text("colour")
    await expect(page.get_by_label("Filter", exact=True)).to_have_attribute("aria-invalid", "true")
    await page.get_by_role("link", name="FAILED").click()
    await expect(page).to_have_url(re.compile(r"filter=state\+%3D\+FAILED"))
    await expect(page.locator("#live")).to_have_text("Live")
    await page.go_back()
    await expect(page.get_by_label("Filter", exact=True)).to_have_value("colour = red")


async def test_keyboard_reaches_pages_and_filter(page: Page) -> None:
    await open_page(page, "/")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#content")).to_be_focused()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    assert await violations(page) == []
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("g")
    await page.keyboard.press("j")
    await expect(page).to_have_url(re.compile("/jobs"))
    await expect(page.locator("#live")).to_have_text("Live")
    await page.keyboard.press("/")
    field = page.get_by_label("Filter", exact=True)
    await expect(field).to_be_focused()
    await page.keyboard.type("sta")
    await expect(page.get_by_role("option", name="state")).to_be_visible()
    assert await violations(page) == []
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await page.keyboard.type("= F")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(field).to_have_value("state = FAILED ")
    await page.keyboard.press("Escape")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("FAILED"))


async def test_theme_is_kept(page: Page) -> None:
    await page.emulate_media(color_scheme="light")
    await open_page(page, "/queues")
    await page.get_by_role("button", name="Theme").click()
    await page.goto("/workers")
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
    await expect(page.get_by_text("page.gated")).to_be_visible()


async def test_policy_blocks_inline_scripts(page: Page, errors: Errors) -> None:
    errors.expect("Content Security Policy")
    await open_page(page, "/queues")
    await page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "globalThis.injected = true";
            document.body.append(script);
        }"""
    )
    assert await page.evaluate("globalThis.injected") is None
    assert errors.seen
