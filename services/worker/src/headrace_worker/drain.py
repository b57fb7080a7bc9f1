"""Drain a worker: stop its claims, then end its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from headrace_core.delivery import BatchWorker
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.loop import LoopRunner
from headrace_worker.attempt.execution import Execution, StopReason
from headrace_worker.attempt.slots import Slots
from headrace_worker.claims import Claims
from headrace_worker.lease import Lease
from headrace_worker.timing import Timing

_log = structlog.get_logger()


class Drain:
    """Stop the claims of a worker, wait for its attempts and interrupt the remaining ones.

    Args:
        deliveries: the consumer of the pool's queue.
        lease: the lease of the worker.
        claims: the claims of the worker.
        slots: the attempts in flight.
        timing: the time limits of the steps.
    """

    def __init__(
        self,
        *,
        deliveries: BatchWorker[Execution],
        lease: Lease,
        claims: Claims,
        slots: Slots,
        timing: Timing,
    ) -> None:
        self._deliveries = deliveries
        self._lease = lease
        self._claims = claims
        self._slots = slots
        self._timing = timing

    async def run(self, until: float, *, consumer: LoopRunner, loops: Sequence[LoopRunner]) -> None:
        """Drain the worker.

        Args:
            until: the end of the grace period, on the event loop's clock.
            consumer: the loop that consumes deliveries.
            loops: the other loops, which continue until all attempts have ended.
        """
        self._lease.draining = True
        leaving = asyncio.create_task(self._leave_queue(consumer), name="leave")
        async with self._best_effort():
            # Report the drain to the scheduler immediately. Keep the lease while attempts end.
            await self._lease.heartbeat()
        await leaving
        async with self._best_effort():
            await self._claims.hand_back_strays()
        await self._end_attempts(until)
        await asyncio.gather(*(loop.stop(within=self._timing.task_end) for loop in loops))

    async def _leave_queue(self, consumer: LoopRunner) -> None:
        """Stop consuming deliveries. Start or return each delivery that was already received."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.hand_back):
                await self._deliveries.leave()
        await consumer.stop(within=self._timing.task_end)

    async def _end_attempts(self, until: float) -> None:
        clock = asyncio.get_running_loop().time
        if self._slots:
            left = max(0.0, until - clock())
            _log.info("worker_drains", running=len(self._slots), grace_s=round(left, 1))
        if await self._slots.wait_until_free(until):
            return
        self._slots.stop_all(StopReason.DRAIN)
        timing = self._timing
        await self._slots.wait_until_free(clock() + timing.drain_grace + timing.hand_back)

    @asynccontextmanager
    async def _best_effort(self) -> AsyncIterator[None]:
        """Limit the duration of a step, and continue the drain if the step fails."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(self._timing.hand_back):
                yield
