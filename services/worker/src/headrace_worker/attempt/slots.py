"""The attempts in flight on a worker, each in a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import WorkerId
from headrace_worker.attempt.execution import Execution, StopReason


class Slots:
    """The attempts in flight. Each attempt occupies a slot until its release.

    Args:
        free: called to make one slot available to the next claim.
    """

    def __init__(self, *, free: Callable[[], None]) -> None:
        self._free = free
        self._executions: dict[AttemptKey, Execution] = {}
        self._all_free = asyncio.Event()

    def __len__(self) -> int:
        return len(self._executions)

    def __contains__(self, key: AttemptKey) -> bool:
        return key in self._executions

    def in_flight(self) -> Collection[AttemptKey]:
        """Return the keys of the attempts in flight. Any thread may call this."""
        return list(self._executions)

    def worker_of(self, key: AttemptKey) -> WorkerId | None:
        """Return the id under which the worker claimed an attempt; None if it is not in flight.

        Any thread may call this.
        """
        execution = self._executions.get(key)
        return None if execution is None else execution.worker_id

    def occupy(self, execution: Execution) -> None:
        """Put a claimed attempt into a slot."""
        self._executions[execution.job.key] = execution

    def release(self, execution: Execution) -> None:
        """Free the slot of an attempt. Repeated calls have no effect."""
        if self._executions.pop(execution.job.key, None) is not None:
            self._free()
            if not self._executions:
                self._all_free.set()

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason) -> None:
        """Stop the attempts with these keys that are still in flight."""
        for key in keys:
            if (execution := self._executions.get(key)) is not None:
                execution.stop(reason)

    def stop_all(self, reason: StopReason) -> None:
        """Stop all attempts in flight."""
        self.stop(self.in_flight(), reason)

    async def wait_until_free(self, until: float) -> bool:
        """Wait until all slots are free; return whether they are.

        Args:
            until: the time at which the wait ends, on the event loop's clock.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while self._executions:
                    self._all_free.clear()
                    await self._all_free.wait()
        return not self._executions
