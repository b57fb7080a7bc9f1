"""Pages in a real browser: the time until they show data, and the age of what they show."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from playwright.async_api import Browser, async_playwright

from bench.web.load import Writer
from headrace_core.domain.ids import JobId

# The type of the jobs whose delay is measured.
PROBE: Final = "probe"
_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
# The data that each page shows first.
FIRST_DATA: Final = {"/": "#content a.figure", "/jobs": "tbody tr[data-key]"}
_TIMEOUT_S: Final = 60.0
# Pauses between two measured commits, in seconds. They have no common factor with the intervals of
# the feeds.
_PAUSE_S: Final = 0.317

# Records when an element that matches a selector appears, and when it shows a job or a count. Times
# are milliseconds since the epoch.
_RECORDER: Final = """
(selector) => {
    const now = () => performance.timeOrigin + performance.now();
    const times = new Map();
    const waiting = new Map();
    const record = (name) => {
        if (times.has(name)) return;
        times.set(name, now());
        waiting.get(name)?.(times.get(name));
    };
    window.recorded = (name) => new Promise((resolve) => {
        if (times.has(name)) resolve(times.get(name));
        else waiting.set(name, resolve);
    });
    const look = () => {
        const first = document.querySelector(selector);
        if (first) record("first");
        for (const row of document.querySelectorAll("tr[data-key]")) record(row.dataset.key);
        const queued = document.querySelector('a.figure [data-state="QUEUED"]');
        if (queued) record(`queued ${queued.closest("a").title}`);
    };
    const options = { subtree: true, childList: true, attributes: true, characterData: true };
    new MutationObserver(look).observe(document, options);
}
"""


_Name = Callable[[JobId, int], str]


def _row(job_id: JobId, _: int) -> str:
    return str(job_id)


def _count(_: JobId, queued: int) -> str:
    return f"queued {queued:,}"


# The path of each measured page, and the name under which its script records a new job: by its id,
# or by the number of queued jobs.
PAGES: Final[dict[str, tuple[str, _Name]]] = {
    "overview": ("/", _count),
    "jobs": ("/jobs", _row),
    "filtered jobs": (f'/jobs?filter=type = "{PROBE}"', _row),
}


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the chromium of the system for the duration of the block.

    Raises:
        FileNotFoundError: chromium is not installed.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise FileNotFoundError("chromium is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        await browser.close()


async def opening_times(browser: Browser, url: str, path: str, *, times: int) -> list[float]:
    """Return the time from the navigation to the first data, in seconds, for each new browser.

    Args:
        browser: the browser.
        url: the address of the web service.
        path: the path of the page.
        times: how often the page is opened, each time without a cache.
    """
    found = []
    for _ in range(times):
        context = await browser.new_context(base_url=url)
        page = await context.new_page()
        await page.add_init_script(f"({_RECORDER})({FIRST_DATA[path]!r})")
        await page.goto(path)
        found.append(
            await page.evaluate(
                "async () => (await window.recorded('first') - performance.timeOrigin) / 1000"
            )
        )
        await context.close()
    return found


async def delays(
    browser: Browser, url: str, writer: Writer, *, page: str, times: int
) -> list[float]:
    """Return the time from a commit until a page shows it, in seconds.

    Args:
        browser: the browser.
        url: the address of the web service.
        writer: submits the jobs.
        page: a key of `PAGES`.
        times: the number of commits.
    """
    path, name = PAGES[page]
    context = await browser.new_context(base_url=url)
    shown = await context.new_page()
    await shown.add_init_script(f"({_RECORDER})({'#live[data-state=live]'!r})")
    await shown.goto(path)
    await shown.evaluate("() => window.recorded('first')")
    await asyncio.sleep(1)
    queued = int(
        await shown.evaluate(
            """Number(document.querySelector('a.figure [data-state="QUEUED"]')
                ?.closest("a").title.replaceAll(",", "") ?? 0)"""
        )
    )
    found = []
    for number in range(1, times + 1):
        await asyncio.sleep(_PAUSE_S)
        [job_id] = await writer.submit(1, job_type=PROBE)
        committed = time.time()
        key = name(job_id, queued + number)
        async with asyncio.timeout(_TIMEOUT_S):
            seen = await shown.evaluate("(key) => window.recorded(key)", key)
        found.append(seen / 1000 - committed)
    await context.close()
    return found
