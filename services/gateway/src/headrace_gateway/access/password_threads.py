"""Hashes and verifies passwords in a few threads, outside the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from headrace_core.domain.errors import LoginThrottled
from headrace_core.store.access.passwords import hash_password, verify_password

T = TypeVar("T")

# Each thread needs 19 MiB, and about 20 ms of CPU time per password. One CPU stays free for the
# event loop.
_THREADS: Final = min(2, max(1, (os.cpu_count() or 1) - 1))
# The maximum number of passwords that threads hash or that wait for a thread. Logins from addresses
# that the user has never used get only a part, so a flood of them cannot displace the others.
_MAX_WAITING: Final = 64
_MAX_NEW_ADDRESSES: Final = 32
# The time in which the threads empty a full queue, in seconds.
_RETRY_AFTER: Final = 1.0


class PasswordThreads:
    """Hashes and verifies passwords."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Return the hash of a password.

        Raises:
            LoginThrottled: too many passwords are waiting.
        """
        return await self._run(lambda: hash_password(password), limit=_MAX_WAITING)

    async def verify(self, password_hash: str | None, password: str, *, known: bool) -> bool:
        """Return whether a password matches; see `verify_password`.

        Args:
            password_hash: the stored hash; None for an unknown user.
            password: the password that the caller sent.
            known: whether the user has logged in from the address of the caller before.

        Raises:
            LoginThrottled: too many passwords are waiting.
        """
        return await self._run(
            lambda: verify_password(password_hash, password),
            limit=_MAX_WAITING if known else _MAX_NEW_ADDRESSES,
        )

    def close(self) -> None:
        """Stop the threads after the passwords that they are hashing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T], *, limit: int) -> T:
        if self._waiting >= limit:
            raise LoginThrottled(_RETRY_AFTER)
        self._waiting += 1
        loop = asyncio.get_running_loop()

        def done(_: Future[T]) -> None:
            # The loop may have ended before the thread.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._done)

        # After a cancellation, a thread can still hash the password, so it counts until the thread
        # is done.
        future = self._pool.submit(work)
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        self._waiting -= 1
