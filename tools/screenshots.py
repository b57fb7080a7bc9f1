"""Make the screenshots in docs/images: run the platform with example jobs, and open its pages.

Needs chromium. `make screenshots` calls this program.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Import from the repository root, not from this folder.
sys.path[0] = str(ROOT)

from playwright.async_api import expect  # noqa: E402 - needs the path above

from bench.stack import Stack  # noqa: E402
from bench.web.browser import chromium  # noqa: E402
from headrace import Client  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1200, "height": 760}
# Docs load faster with small images.
MAX_BYTES = 150_000


async def make_screenshots() -> None:
    """Run the platform, and store the pictures of the pages.

    Raises:
        ValueError: a picture is too large.
    """
    IMAGES.mkdir(exist_ok=True)
    async with AsyncExitStack() as running:
        stack = await running.enter_async_context(Stack.running())
        await running.enter_async_context(stack.scheduler())
        gateway = await running.enter_async_context(stack.gateway())
        await running.enter_async_context(stack.worker())
        web = await running.enter_async_context(stack.web(gateway))
        client = await running.enter_async_context(Client(gateway.address))
        job_id = await _run_jobs(client)
        browser = await running.enter_async_context(chromium())
        context = await browser.new_context(base_url=f"http://{web.address}", viewport=SIZE)
        page = await context.new_page()
        for name, path in (
            ("overview", "/"),
            ("jobs", "/jobs"),
            ("job", f"/jobs/{job_id}"),
            ("submit", "/submit?type=square_sum"),
        ):
            await page.goto(path)
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await page.wait_for_load_state("load")
            if name != "submit":
                await expect(page.locator("#live")).to_have_text("Live")
            await asyncio.sleep(1)
            picture = await page.screenshot()
            if len(picture) > MAX_BYTES:
                raise ValueError(f"{name}.png has {len(picture):,} bytes; limit: {MAX_BYTES:,}")
            (IMAGES / f"{name}.png").write_bytes(picture)
            print(f"docs/images/{name}.png: {len(picture):,} bytes")


async def _run_jobs(client: Client) -> str:
    """Run jobs and return the id of one that has succeeded."""
    jobs = [
        await client.submit("square_sum", {"data": [number, 2]}, labels={"team": "ml"})
        for number in range(12)
    ]
    # This job has no worker.
    await client.submit("report", {"month": 5}, queue="reports", labels={"team": "sales"})
    for job in jobs:
        await job.result()
    return jobs[-1].id


if __name__ == "__main__":
    asyncio.run(make_screenshots())
