"""Following named jobs to their ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from headrace.cli.stream import EventStream

if TYPE_CHECKING:
    from headrace import Client

# Streams of one client; for more jobs than that there are filters.
MAX_JOBS: Final = 500


async def follow(client: Client, job_ids: Sequence[str], stream: EventStream) -> None:
    """Shows the history of each job and what happens to it, until all have ended.

    Raises:
        CallError: one of them does not exist, or no gateway answered for too long.
    """

    async def one(job_id: str) -> None:
        async for event in client.watch_job(job_id):
            stream.show(event)

    tasks = [asyncio.create_task(one(job_id)) for job_id in dict.fromkeys(job_ids)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
