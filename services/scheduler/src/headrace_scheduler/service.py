"""The scheduler, put together."""

from __future__ import annotations

import asyncio

import structlog

from headrace_core.delivery import Deliverer
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import WriteProbe
from headrace_core.wake import Listener, Topic, Waker
from headrace_health import Check, Health, HealthServer
from headrace_scheduler.leader import Leader
from headrace_scheduler.metrics import Gauges, scheduler_metrics
from headrace_scheduler.term import Term

_log = structlog.get_logger()


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
        self._deliverer = Deliverer(settings, identify=self._database.installation_id)
        self._health = HealthServer(
            address=settings.scheduler_address,
            reflection=settings.reflection,
            health=Health(
                checks=(
                    Check(name="postgresql", ping=WriteProbe(self._database).run),
                    Check(name="wake-ups", ping=self._listener.ping),
                    # Without Redis the workers help themselves, and the other loops go on.
                    Check(name="redis", ping=self._deliverer.ping, required=False),
                )
            ),
        )
        self._gauges = Gauges()
        self._metrics = MetricsServer(
            address=settings.scheduler_metrics_address, registry=scheduler_metrics(self._gauges)
        )
        self.leader = Leader(database=self._database, work=self._lead, gauges=self._gauges)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where its health is served."""
        return self._health.port

    @property
    def metrics_port(self) -> int:
        """Where its metrics are served; 0 when they are not."""
        return self._metrics.port

    async def start(self) -> None:
        """Starts to stand by, and to serve its health and its metrics."""
        await self._metrics.start()
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
        await self._metrics.stop()
        await self._database.close()
        _log.info("scheduler_stopped")

    async def _lead(self, term: int) -> None:
        await Term(
            term,
            settings=self._settings,
            database=self._database,
            waker=self._waker,
            listener=self._listener,
            deliverer=self._deliverer,
            gauges=self._gauges,
        ).run()
