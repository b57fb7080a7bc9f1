"""Statuses of names that are not known in advance."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager

import structlog

from headrace_core.runtime.tasks import end_tasks

_log = structlog.get_logger()


class Lookup:
    """The statuses of all names with a prefix. One read returns the names that are SERVING.

    A check reads the statuses if the last read is too old. While a watch is open, a loop reads
    them. After a failed read, no name is SERVING.

    Args:
        prefix: the prefix of the names.
        valid: returns whether a name, given without its prefix, is valid.
        read: returns all names that are SERVING, without the prefix.
        wait: returns after the given seconds, or earlier if the statuses may have changed.
        max_age: maximum age of a read before it is repeated, in seconds.
        timeout: timeout of a read, in seconds.
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
        self._valid_until = -math.inf
        self._failing = False
        self._reading: asyncio.Task[None] | None = None
        self._followers = 0
        self._followed = asyncio.Event()
        self._on_change: Callable[[], None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def knows(self, name: str) -> bool:
        """Return whether a name belongs to this lookup."""
        return name.startswith(self._prefix) and self._valid(name.removeprefix(self._prefix))

    async def serving(self, name: str) -> bool:
        """Return whether a name is SERVING; the result is at most `max_age` old."""
        if asyncio.get_running_loop().time() >= self._valid_until:
            await self._wait_for_read()
        return name.removeprefix(self._prefix) in self._found

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Read in a loop during the block, and report changes."""
        self._followers += 1
        self._followed.set()
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._followed.clear()

    def on_change(self, notify: Callable[[], None]) -> None:
        """Call `notify` when a read differs from the previous one."""
        self._on_change = notify

    def start(self) -> None:
        """Start the loop, which reads while a watch is open."""
        self._loop = asyncio.create_task(self._run(), name="lookup")

    async def run_once(self) -> None:
        """Read the current statuses, with a read that starts after this call."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        await self._wait_for_read()

    async def stop(self) -> None:
        """Stop the loop and cancel the current read."""
        tasks = [task for task in (self._loop, self._reading) if task is not None]
        await end_tasks(*tasks, within=5)

    async def _wait_for_read(self) -> None:
        """Wait for the current read, or for a new one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_once(), name="lookup-reading")
        # If one waiter is cancelled, the read continues.
        await asyncio.wait([self._reading])

    async def _read_once(self) -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        found: Container[str] = ()
        error: Exception | None = None
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._read()
        except Exception as caught:  # noqa: BLE001 - any error means unknown
            error = caught
        # The age of a result counts from the start of the read; the age of a failure, from its end.
        self._valid_until = (start if error is None else clock()) + self._max_age
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
