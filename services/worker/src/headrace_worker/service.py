"""Connect the parts of a worker: deliveries, claims, attempts in slots, and end writes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from headrace_core.delivery import BatchWorker
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime import loop
from headrace_core.runtime.loop import Loop, LoopRecords, LoopRunner, Wake
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import Tracing
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
from headrace_worker.api.registry import Registry
from headrace_worker.attempt.environment import Environment
from headrace_worker.attempt.execution import Execution, StopReason
from headrace_worker.attempt.judge import Limits
from headrace_worker.attempt.slots import Slots
from headrace_worker.cancels import Cancels
from headrace_worker.claims import Claims, Strays
from headrace_worker.drain import Drain
from headrace_worker.lease import Lease
from headrace_worker.metrics import Counts, Levels, worker_metrics
from headrace_worker.pool import describe_worker, pool_of
from headrace_worker.runners.job_log import LogLimits
from headrace_worker.runners.process_pool import ProcessPool
from headrace_worker.runners.runners import Runners
from headrace_worker.timing import Timing
from headrace_worker.watchdog import Watchdog
from headrace_worker.writes.ends import EndWriter
from headrace_worker.writes.logs import LogWriter
from headrace_worker.writes.reports import ReportWriter
from headrace_worker.writes.results import ResultRecorder

_log = structlog.get_logger()

_LOOP_TIMING: Final = loop.Timing(retry=(0.2, 0.6))


class WorkerService:
    """The worker service, which connects, starts and drains the parts of a worker.

    Args:
        settings: servers, slots, lease and limits.
        handlers: the handlers of the worker.
        timing: durations that are not configurable.
        tracing: receives the spans of the attempts; None if the worker writes none.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Registry,
        *,
        timing: Timing | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        timing = Timing() if timing is None else timing
        self._settings = settings
        self._certificate = CertificateFiles.of(settings)
        self._timing = timing
        self._tracing = tracing
        self._handlers = handlers
        self._pool = pool_of(settings, handlers)
        self._database = Database(settings, application="worker")
        self._bus = WakeBus(settings, self._database, *Cancels.topics)
        self.counts = Counts()
        self._records = LoopRecords()
        self._deliveries: BatchWorker[Execution] = BatchWorker(
            settings,
            pool=self._pool.name,
            # A lambda, because the claims are created later: they need the lease, which needs these
            # deliveries.
            claim=lambda deliveries, most: self._claims.claim(deliveries, most),  # noqa: PLW0108
            start=Execution.start,
            find=lambda limit: self._claims.find(limit),  # noqa: PLW0108
            identify=self._database.installation_id,
        )
        self._slots = Slots(free=self._deliveries.release)
        self._logs = LogWriter(
            database=self._database,
            find_worker=self._slots.worker_of,
            limits=LogLimits.of(settings),
            on_written=lambda: self._bus.publish(Topic.LOGS),
            timing=timing,
        )
        self._processes = ProcessPool(settings, timing=timing, log=self._logs)
        self._lease = Lease(
            database=self._database,
            describe=lambda: describe_worker(self._pool, handlers),
            lease_s=settings.worker_lease,
            heartbeat_s=settings.worker_beat,
            on_doubt=self._deliveries.pause,
            on_lost=lambda: self._slots.stop_all(StopReason.LOST),
            on_held=self._on_held,
            counts=self.counts,
        )
        self._ends = EndWriter(
            database=self._database,
            is_held=self._lease.is_held,
            logs=self._logs,
            store_stack_traces=settings.store_stack_traces,
            record=ResultRecorder(counts=self.counts, publish=self._bus.publish).record,
            timing=timing,
        )
        self._reports = ReportWriter(
            database=self._database,
            is_held=self._lease.is_held,
            on_written=lambda: self._bus.publish(Topic.EVENTS),
            max_pending=4 * settings.worker_slots,
            counts=self.counts,
            timing=timing,
        )
        self._claims = Claims(
            database=self._database,
            pool=self._pool.name,
            lease=self._lease,
            handlers=handlers,
            slots=self._slots,
            environment=self._make_environment(),
            publish=self._bus.publish,
            timeout=settings.worker_beat,
        )
        self._drain = Drain(
            deliveries=self._deliveries,
            lease=self._lease,
            claims=self._claims,
            slots=self._slots,
            timing=timing,
        )
        cancels = Cancels(
            database=self._database,
            lease=self._lease,
            slots=self._slots,
            interval=settings.worker_beat,
        )
        # The consumer has no loop record: its single run would look like a stuck loop.
        self._consumer = LoopRunner(_ConsumeLoop(self._deliveries), timing=_LOOP_TIMING)
        self._loops = [
            self._make_runner(self._lease, wake=self._lease.wake),
            self._make_runner(cancels, wake=self._bus.subscribe(*cancels.topics)),
            self._make_runner(Strays(self._claims, interval=settings.worker_beat)),
        ]
        self._health = self._make_health()
        self._metrics = self._make_metrics()
        self._watchdog = (
            Watchdog(
                limit=settings.worker_watchdog,
                running=lambda: [key.job_id for key in self._slots.in_flight()],
            )
            if settings.worker_watchdog
            else None
        )
        self._started = False

    @property
    def port(self) -> int:
        """The port of the health service."""
        return self._health.port

    @property
    def metrics_port(self) -> int:
        """The metrics port; 0 if no metrics address is set."""
        return self._metrics.port

    @property
    def running(self) -> int:
        """The number of attempts in flight."""
        return len(self._slots)

    async def start(self) -> None:
        """Register and start claiming jobs.

        Raises:
            Unavailable: the database did not answer.
            OSError: the metrics address cannot be bound.
        """
        await self._metrics.start()
        await self._bus.start()
        self._logs.start()
        await self._lease.register()
        for runner in (self._consumer, *self._loops):
            runner.start()
        self._started = True
        await self._health.start()
        if self._watchdog is not None:
            self._watchdog.start()
        _log.info("worker_started", port=self.port, pool=self._pool.name, types=len(self._handlers))

    async def stop(self) -> None:
        """Stop claiming, wait for attempts until the grace period ends, and hand back the rest.

        A stop takes at most the grace period plus two seconds, even if a part hangs. With traces,
        it takes up to two more seconds.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.shutdown_grace
        try:
            async with asyncio.timeout_at(deadline + self._timing.stop_margin):
                await self._health.enter_graceful_shutdown()
                if self._started:
                    await self._drain.run(deadline, consumer=self._consumer, loops=self._loops)
                await self._close()
        except TimeoutError:
            # Recovery takes the remaining attempts back. The process exit closes the connections.
            _log.warning("worker_stop_cut_short", running=len(self._slots))
        if self._tracing is not None:
            await self._tracing.flush()
        await self._metrics.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        _log.info("worker_stopped")

    async def _close(self) -> None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(self._timing.hand_back):
                await self._lease.unregister()
        self._bus.publish(Topic.JOBS, Topic.WORKERS)
        await asyncio.gather(self._ends.close(), self._reports.close(), self._processes.close())
        await self._logs.close()
        await asyncio.gather(self._deliveries.close(), self._bus.stop(), self._health.stop())
        await self._database.close()

    def _release(self, execution: Execution) -> None:
        self._slots.release(execution)
        self._logs.release(execution.key)

    def _on_held(self) -> None:
        if not self._lease.draining:
            self._deliveries.resume()
        self._bus.publish(Topic.WORKERS, Topic.JOBS)

    def _make_environment(self) -> Environment:
        settings = self._settings
        return Environment(
            is_held=self._lease.is_held,
            runners=Runners(
                processes=self._processes,
                grace=settings.worker_cancel_grace,
                counts=self.counts,
                log=self._logs,
            ),
            write_report=self._reports.write,
            on_end=self._ends.write,
            logs=self._logs,
            tracing=self._tracing,
            release=self._release,
            limits=Limits(
                result_bytes=settings.max_result_bytes,
                output_bytes=settings.max_output_bytes,
                losses=settings.max_worker_losses,
                interruptions=settings.max_interruptions,
            ),
            grace=settings.worker_cancel_grace,
            timing=self._timing,
        )

    def _make_runner(self, repeated: Loop, *, wake: Wake | None = None) -> LoopRunner:
        return LoopRunner(repeated, wake=wake, timing=_LOOP_TIMING, records=self._records)

    def _make_health(self) -> HealthServer:
        return HealthServer(
            address=self._settings.worker_address,
            reflection=self._settings.reflection,
            certificate=None if self._settings.plain_health else self._certificate,
            health=Health(
                checks=(
                    Check(name="postgresql", ping=WriteProbe(self._database, submits=False).run),
                    Check(name="wake-ups", ping=self._bus.ping),
                    # Without Redis the worker claims directly from PostgreSQL.
                    Check(name="redis", ping=self._deliveries.ping, required=False),
                )
            ),
        )

    def _make_metrics(self) -> MetricsServer:
        levels = Levels(
            running=lambda: self.running,
            slots=self._settings.worker_slots,
            without_redis=lambda: self._deliveries.without_redis,
        )
        return MetricsServer(
            address=self._settings.worker_metrics_address,
            registry=worker_metrics(
                self.counts,
                levels,
                self._records,
                ServiceMetrics(health=self._health.health, certificate=self._certificate),
                self._tracing,
            ),
            tls=metrics_context(self._settings, self._certificate),
        )


class _ConsumeLoop(Loop):
    """Consume deliveries in a single run, which ends only after a fault."""

    name = "deliveries"

    def __init__(self, deliveries: BatchWorker[Execution]) -> None:
        self._deliveries = deliveries

    async def run_once(self) -> float:
        await self._deliveries.main()
        return 0.0
