"""Statuses of names that nobody can list in advance."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager

import structlog

from headrace_core.runtime.tasks import end_tasks

_log = structlog.get_logger()


class Lookup:
    """Answers for all names with a prefix, from one reading that tells which of them are SERVING.

    A reading is taken when somebody asks and the last one is too old, and again and again while
    somebody follows. While nobody asks nothing is read. What cannot be read is not SERVING.

    Args:
        prefix: with which its names begin.
        valid: whether what stands behind the prefix can be a name at all.
        read: returns what stands behind the prefix of each name that is SERVING now.
        wait: returns after as many seconds, or earlier when there is something new to read.
        max_age: seconds for which a reading holds.
        timeout: seconds after which a reading has failed.
    """

    def __init__(
        self,
        *,
        prefix: str,
        valid: Callable[[str], bool],
        read: Callable[[], Awaitable[Container[str]]],
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
        max_age: float = 1.0,
        timeout: float = 2.0,
    ) -> None:
        self._prefix = prefix
        self._valid = valid
        self._read = read
        self._wait = wait
        self._max_age = max_age
        self._timeout = timeout
        self._found: Container[str] = ()
        self._holds_until = -math.inf
        self._failing = False
        self._reading: asyncio.Task[None] | None = None
        self._followers = 0
        self._followed = asyncio.Event()
        self._on_change: Callable[[], None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def knows(self, name: str) -> bool:
        """Whether it answers for a name."""
        return name.startswith(self._prefix) and self._valid(name.removeprefix(self._prefix))

    async def serving(self, name: str) -> bool:
        """Whether one of its names is SERVING now; the answer is at most `max_age` old."""
        if asyncio.get_running_loop().time() >= self._holds_until:
            await self._join()
        return name.removeprefix(self._prefix) in self._found

    @contextmanager
    def followed(self) -> Iterator[None]:
        """For the length of the block it reads by itself, and tells of what has changed."""
        self._followers += 1
        self._followed.set()
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._followed.clear()

    def on_change(self, tell: Callable[[], None]) -> None:
        """Has `tell` called when a reading differs from the one before."""
        self._on_change = tell

    def start(self) -> None:
        """Begins to read, in the background, whenever it is followed."""
        self._loop = asyncio.create_task(self._run(), name="lookup")

    async def run_once(self) -> None:
        """Reads what is there now, and not what a reading that is under way may still tell."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        await self._join()

    async def stop(self) -> None:
        """Ends that; a reading that is under way is given up."""
        tasks = [task for task in (self._loop, self._reading) if task is not None]
        await end_tasks(*tasks, within=5)

    async def _join(self) -> None:
        """Waits for the reading that is under way, or for a new one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._look(), name="lookup-reading")
        # Whoever stops waiting leaves it to the others.
        await asyncio.wait([self._reading])

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        asked = clock()
        found: Container[str] = ()
        error: Exception | None = None
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._read()
        except Exception as caught:  # noqa: BLE001 - whatever it is, nobody knows that they serve
            error = caught
        # What was read is from some moment since; that it failed is known only now.
        self._holds_until = (asked if error is None else clock()) + self._max_age
        if error is not None and not self._failing:
            _log.warning("health_not_read", names=self._prefix, error=type(error).__name__)
        self._failing = error is not None
        changed, self._found = found != self._found, found
        if changed and self._on_change is not None:
            self._on_change()

    async def _run(self) -> None:
        while True:
            await self._followed.wait()
            await self._wait(self._max_age)
            await self.run_once()
