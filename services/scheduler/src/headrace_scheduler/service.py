"""The scheduler, put together."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from headrace_core.dispatch import Deliverer
from headrace_core.settings import Settings
from headrace_core.store.database import Database
from headrace_core.tasks import end_tasks
from headrace_core.wake import Listener, Topic, Waker
from headrace_health import Check, Health, HealthServer
from headrace_scheduler.dispatch import Dispatch
from headrace_scheduler.leader import Leader
from headrace_scheduler.loop import Loop, keep_running
from headrace_scheduler.promote import Promote
from headrace_scheduler.prune import Prune
from headrace_scheduler.sweep import Sweep

_log = structlog.get_logger()

# The longest time between two looks at the wake-ups, in seconds.
_LISTEN = 10.0


class Scheduler:
    """A scheduler: it leads, or stands by for the one that does.

    Args:
        settings: servers, address and limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings, application="scheduler")
        self._waker = Waker(settings, self._database)
        self._listener = Listener(settings, self._database, Topic.JOBS, Topic.SLOTS)
        self._deliverer = Deliverer(settings)
        self._health = HealthServer(
            address=settings.scheduler_address,
            reflection=settings.reflection,
            health=Health(
                checks=(
                    Check(name="postgresql", ping=self._database.ping),
                    # Without Redis the workers help themselves, and the other loops go on.
                    Check(name="redis", ping=self._deliverer.ping, required=False),
                )
            ),
        )
        self.leader = Leader(database=self._database, work=self._run_loops)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where its health is served."""
        return self._health.port

    async def start(self) -> None:
        """Starts to stand by, and to serve its health."""
        await self._waker.start()
        await self._listener.start()
        await self._health.start()
        self._task = asyncio.create_task(self.leader.run(), name="leader")
        _log.info("scheduler_started", port=self.port)

    async def stop(self) -> None:
        """Gives up the leadership and closes everything."""
        await self._health.enter_graceful_shutdown()
        if self._task is not None:
            await end_tasks(self._task)
        await self._listener.stop()
        await self._waker.stop()
        await self._deliverer.close()
        await self._health.stop()
        await self._database.close()
        _log.info("scheduler_stopped")

    async def _run_loops(self) -> None:
        settings = self._settings
        # Fresh loops for each term: what an earlier one remembered is not to be trusted.
        promote = Promote(database=self._database, waker=self._waker)
        dispatch = Dispatch(
            database=self._database,
            deliverer=self._deliverer,
            prefetch=settings.dispatch_prefetch,
            redeliver_after=settings.redeliver_after,
        )
        loops: tuple[Loop, ...] = (
            promote,
            dispatch,
            Sweep(
                database=self._database,
                waker=self._waker,
                max_losses=settings.max_worker_losses,
            ),
            Prune(
                database=self._database,
                retention=timedelta(seconds=settings.retention),
                subscription_retention=timedelta(seconds=settings.subscription_retention),
            ),
        )
        woken = {loop.name: asyncio.Event() for loop in loops}
        running = [
            asyncio.create_task(keep_running(loop, woken[loop.name]), name=loop.name)
            for loop in loops
        ]
        try:
            while True:
                heard = await self._listener.wait(_LISTEN)
                # The others have a pace of their own.
                if Topic.JOBS in heard:
                    woken[promote.name].set()
                if Topic.JOBS in heard or (Topic.SLOTS in heard and not dispatch.supplied):
                    woken[dispatch.name].set()
        finally:
            await end_tasks(*running)
