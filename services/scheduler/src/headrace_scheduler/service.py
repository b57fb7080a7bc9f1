"""Connect the parts of a scheduler."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from headrace_core.delivery import Deliverer
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.loop import LoopRecords
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import WriteProbe
from headrace_core.wake import Topic, WakeBus
from headrace_health import (
    CertificateFiles,
    Check,
    Health,
    HealthServer,
    ServiceMetrics,
    metrics_context,
)
from headrace_scheduler.leader import Leader
from headrace_scheduler.metrics import Gauges, scheduler_metrics
from headrace_scheduler.term import Term
from headrace_scheduler.timing import DEFAULT, Timing

# Longest wait for PostgreSQL at startup, in seconds. A scheduler also starts without it.
_PING_S: Final = 2.0

_log = structlog.get_logger()


class Scheduler:
    """A scheduler, which is either the leader or a standby.

    Args:
        settings: the servers, the addresses and the limits.
        timing: the durations of the lease and the loops.
    """

    def __init__(self, settings: Settings, *, timing: Timing = DEFAULT) -> None:
        self._settings = settings
        self._timing = timing
        self._database = Database(settings, application="scheduler")
        self._bus = WakeBus(settings, self._database, Topic.JOBS, Topic.SLOTS, Topic.ACCESS)
        self._deliverer = Deliverer(settings, identify=self._database.installation_id)
        certificate = CertificateFiles.of(settings)
        self._health = HealthServer(
            address=settings.scheduler_address,
            reflection=settings.reflection,
            certificate=None if settings.plain_health else certificate,
            health=Health(
                checks=(
                    Check(name="postgresql", ping=WriteProbe(self._database, submits=False).run),
                    Check(name="wake-ups", ping=self._bus.ping),
                    # Not required: without Redis, workers claim from PostgreSQL and the loops still
                    # run.
                    Check(name="redis", ping=self._deliverer.ping, required=False),
                )
            ),
        )
        self._gauges = Gauges()
        self._records = LoopRecords()
        self._metrics = MetricsServer(
            address=settings.scheduler_metrics_address,
            registry=scheduler_metrics(
                self._gauges,
                self._records,
                ServiceMetrics(health=self._health.health, certificate=certificate),
            ),
            tls=metrics_context(settings, certificate),
        )
        self.leader = Leader(
            database=self._database,
            work=self._run_term,
            gauges=self._gauges,
            records=self._records,
            timing=timing,
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port of the health service."""
        return self._health.port

    @property
    def metrics_port(self) -> int:
        """The metrics port; 0 if no metrics address is set."""
        return self._metrics.port

    async def start(self) -> None:
        """Start as a standby, and start to serve health and metrics.

        Raises:
            StartRefused: the database URL names a pooler that shares sessions.
        """
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_PING_S):
                await self._database.ping()
        await self._metrics.start()
        await self._bus.start()
        await self._health.start()
        self._task = asyncio.create_task(self.leader.run(), name="leader")
        _log.info("scheduler_started", port=self.port)

    async def stop(self) -> None:
        """Give up the lead and close all connections."""
        await self._health.enter_graceful_shutdown()
        if self._task is not None:
            await end_tasks(self._task)
        await self._bus.stop()
        await self._deliverer.close()
        await self._health.stop()
        await self._metrics.stop()
        await self._database.close()
        _log.info("scheduler_stopped")

    async def _run_term(self, term: int) -> None:
        await Term(
            term,
            settings=self._settings,
            database=self._database,
            bus=self._bus,
            deliverer=self._deliverer,
            gauges=self._gauges,
            records=self._records,
            timing=self._timing,
        ).run()
