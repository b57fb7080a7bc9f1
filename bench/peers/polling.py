"""Polls for ended jobs, with one query for all jobs, for libraries that do not notify clients.

This module uses only the standard library, like `contract.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

# Seconds between two queries. Few applications would poll faster.
INTERVAL_S: Final = 0.005

Id = TypeVar("Id")


class OutstandingJobs(Generic[Id]):
    """The jobs for which one client waits.

    Args:
        ended: returns the ended jobs among the given ones; called every 5 ms while jobs are
            outstanding.
    """

    def __init__(self, ended: Callable[[list[Id]], Awaitable[Iterable[Id]]]) -> None:
        self._ended = ended
        self._waiters: dict[Id, asyncio.Future[None]] = {}
        self._polling: asyncio.Task[None] | None = None

    async def wait(self, job: Id) -> None:
        """Wait until the job has ended."""
        waiter = self._waiters[job] = asyncio.get_running_loop().create_future()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        await waiter

    async def _poll(self) -> None:
        try:
            while self._waiters:
                for job in await self._ended(list(self._waiters)):
                    self._waiters.pop(job).set_result(None)
                await asyncio.sleep(INTERVAL_S)
        except Exception as error:  # noqa: BLE001 - raised in all waiters
            for waiter in self._waiters.values():
                waiter.set_exception(error)
            self._waiters.clear()
