"""The worker, put together: deliveries in, claims, attempts in slots, finishes out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from headrace_core.delivery import BatchWorker
from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport, ClaimedJob
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId, uuid7
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.metrics import MetricsServer
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.jobs.cancel import cancel_requests
from headrace_core.store.jobs.claim import claim_jobs, held_attempts
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.ready import Pool, ready_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import WriteProbe
from headrace_core.store.workers import NewWorker
from headrace_core.wake import Topic, WakeBus
from headrace_health import Check, Health, HealthServer
from headrace_worker.api.registry import Registry
from headrace_worker.attempt.execution import DRAIN_S, Execution, StopReason
from headrace_worker.attempt.failure import error_facts
from headrace_worker.attempt.reporter import AttemptReporter
from headrace_worker.lease import Lease
from headrace_worker.metrics import Counts, Levels, worker_metrics
from headrace_worker.runners.modes import Modes
from headrace_worker.runners.process_pool import ProcessPool
from headrace_worker.watchdog import Watchdog
from headrace_worker.writes.ends import Finishes
from headrace_worker.writes.reports import Reports

_log = structlog.get_logger()

# How long the stop may take beyond the grace, in seconds, so that the process ends within two.
_STOP_S = 1.5
# How long each step of a drain may take that tells others, and background tasks to end, in seconds.
_HAND_BACK_S = 1.0
_END_S = 0.5
_LOG_NAMES = {
    EventType.SUCCEEDED: "job_succeeded",
    EventType.RETRY_SCHEDULED: "job_retry_scheduled",
    EventType.FAILED: "job_failed",
    EventType.INTERRUPTED: "job_interrupted",
    EventType.WORKER_LOST: "job_worker_lost",
    EventType.CANCELLED: "job_cancelled",
    EventType.EXPIRED: "job_expired",
}

# Attempts that ended like this have an error.
_FAILURES = (
    EventType.RETRY_SCHEDULED,
    EventType.FAILED,
    EventType.WORKER_LOST,
    EventType.EXPIRED,
)

# Behind these a job waits: for its time, or for a slot.
_WAITS_AGAIN = (EventType.RETRY_SCHEDULED, EventType.INTERRUPTED, EventType.WORKER_LOST)


class WorkerService:
    """A worker.

    Args:
        settings: servers, slots, lease and limits.
        handlers: what it runs.
    """

    def __init__(self, settings: Settings, handlers: Registry) -> None:
        self._settings = settings
        self._handlers = handlers
        self._pool = _pool(settings, handlers)
        self._database = Database(settings, application="worker")
        self._bus = WakeBus(settings, self._database, Topic.CANCELS)
        self._cancels = self._bus.subscribe(Topic.CANCELS)
        self._processes = ProcessPool(settings)
        self.counts = Counts()
        self._modes = Modes(
            processes=self._processes, grace=settings.worker_cancel_grace, counts=self.counts
        )
        self._executions: dict[AttemptKey, Execution] = {}
        self._none_runs = asyncio.Event()
        self._deliveries: BatchWorker[Execution] = BatchWorker(
            settings,
            pool=self._pool.name,
            claim=self._claim,
            start=Execution.start,
            find=self._find,
            identify=self._database.installation_id,
        )
        self._lease = Lease(
            database=self._database,
            describe=self._describe,
            lease_s=settings.worker_lease,
            beat_s=settings.worker_beat,
            on_doubt=self._deliveries.pause,
            on_lost=self._on_lost,
            on_held=self._on_held,
            counts=self.counts,
        )
        self._finishes = Finishes(
            database=self._database,
            held=self._lease.held,
            store_stack_traces=settings.store_stack_traces,
            on_written=self._on_written,
        )
        self._reports = Reports(
            database=self._database,
            held=self._lease.held,
            on_written=lambda: self._bus.publish(Topic.EVENTS),
            max_pending=4 * settings.worker_slots,
            counts=self.counts,
        )
        self._health = HealthServer(
            address=settings.worker_address,
            reflection=settings.reflection,
            health=Health(
                checks=(
                    Check(name="postgresql", ping=WriteProbe(self._database).run),
                    Check(name="wake-ups", ping=self._bus.ping),
                    # Without Redis it claims straight from PostgreSQL.
                    Check(name="redis", ping=self._deliveries.ping, required=False),
                )
            ),
        )
        levels = Levels(
            running=lambda: self.running,
            slots=settings.worker_slots,
            without_redis=lambda: self._deliveries.without_redis,
        )
        self._metrics = MetricsServer(
            address=settings.worker_metrics_address, registry=worker_metrics(self.counts, levels)
        )
        self._watchdog = (
            Watchdog(
                limit=settings.worker_watchdog,
                running=lambda: [key.job_id for key in list(self._executions)],
            )
            if settings.worker_watchdog
            else None
        )
        self._claiming = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """Where its health is served."""
        return self._health.port

    @property
    def metrics_port(self) -> int:
        """Where its metrics are served; 0 when they are not."""
        return self._metrics.port

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return len(self._executions)

    async def start(self) -> None:
        """Registers and begins to take jobs.

        Raises:
            Unavailable: the database cannot be reached.
            OSError: the address of the metrics cannot be had.
        """
        await self._metrics.start()
        await self._bus.start()
        await self._lease.take()
        self._tasks = [
            asyncio.create_task(_keep_running(loop, name), name=name)
            for name, loop in (
                ("deliveries", self._deliveries.main),
                ("lease", self._lease.run),
                ("cancels", self._watch_cancels),
                ("strays", self._watch_strays),
            )
        ]
        await self._health.start()
        if self._watchdog is not None:
            self._watchdog.start()
        _log.info("worker_started", port=self.port, pool=self._pool.name, types=len(self._handlers))

    async def stop(self) -> None:
        """Drains: takes nothing more, gives what runs the grace, hands the rest back.

        It takes no longer than the grace and two seconds, whatever hangs.
        """
        clock = asyncio.get_running_loop().time
        ends = clock() + self._settings.shutdown_grace
        try:
            async with asyncio.timeout_at(ends + _STOP_S):
                await self._health.enter_graceful_shutdown()
                if self._tasks:
                    await self._drain(ends)
                await self._close()
        except TimeoutError:
            # What is not handed back is swept; connections end with the process.
            _log.warning("worker_stop_cut_short", running=len(self._executions))
        await self._metrics.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        _log.info("worker_stopped")

    async def _drain(self, ends: float) -> None:
        self._lease.draining = True
        deliveries, *others = self._tasks
        leaving = asyncio.create_task(self._leave(deliveries), name="leave")
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_HAND_BACK_S):
                # Tells the scheduler at once; the lease is kept while jobs end.
                await self._lease.beat()
        await leaving
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_HAND_BACK_S):
                await self._hand_back_strays()
        await self._end_attempts(ends)
        await end_tasks(*others, within=_END_S)

    async def _leave(self, deliveries: asyncio.Task[None]) -> None:
        """Leaves the queue; what was taken from it is started or given back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_HAND_BACK_S):
                await self._deliveries.leave()
        await end_tasks(deliveries, within=_END_S)

    async def _end_attempts(self, ends: float) -> None:
        clock = asyncio.get_running_loop().time
        if self._executions:
            left = max(0.0, ends - clock())
            _log.info("worker_drains", running=len(self._executions), grace_s=round(left, 1))
        if await self._until_none_runs(ends):
            return
        for execution in list(self._executions.values()):
            execution.stop(StopReason.DRAIN)
        await self._until_none_runs(clock() + DRAIN_S + _HAND_BACK_S)

    async def _until_none_runs(self, until: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while self._executions:
                    self._none_runs.clear()
                    await self._none_runs.wait()
        return not self._executions

    async def _close(self) -> None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_HAND_BACK_S):
                await self._lease.give_up()
        self._bus.publish(Topic.JOBS, Topic.WORKERS)
        await asyncio.gather(self._finishes.close(), self._reports.close(), self._processes.close())
        await asyncio.gather(self._deliveries.close(), self._bus.stop(), self._health.stop())
        await self._database.close()

    # Taking.

    async def _claim(self, deliveries: Sequence[AttemptKey], most: int) -> list[Execution]:
        async with self._no_other_claim():
            worker_id = self._lease.worker_id
            async with self._database.statement() as connection:
                jobs = await claim_jobs(
                    connection, worker_id=worker_id, deliveries=deliveries, most=most
                )
            if jobs:
                self._bus.publish(Topic.EVENTS)
            if not self._lease.held(worker_id):
                # Lost meanwhile: recovery takes them back.
                return []
            if _log.is_enabled_for(logging.DEBUG):
                for job in jobs:
                    _log.debug("job_started", **_facts(job))
            return [self._execution(job, worker_id) for job in jobs]

    async def _watch_strays(self) -> None:
        while True:
            await asyncio.sleep(self._settings.worker_beat)
            with suppress(Unavailable):
                await self._hand_back_strays()

    async def _hand_back_strays(self) -> None:
        """Hands back what is this worker's by the database and runs nowhere.

        The answer to a claim that was committed can be lost on its way. Recovery would never find
        such a job, since its worker lives.
        """
        # Between two claims, so that what runs nowhere is not about to.
        async with self._no_other_claim():
            worker_id = self._lease.worker_id
            async with self._database.transaction() as connection:
                held = await held_attempts(connection, worker_id=worker_id)
                if not self._lease.held(worker_id):
                    # Lost meanwhile: recovery takes back what just ended here for that.
                    return
                # One that ends right now is refused.
                strays = [
                    AttemptEnd(key=key, event=EventType.INTERRUPTED)
                    for key in held
                    if key not in self._executions
                ]
                if strays:
                    await end_attempts(connection, worker_id=worker_id, ends=strays)
        if strays:
            _log.warning("strays_handed_back", jobs=len(strays))
            self._bus.publish(Topic.EVENTS, Topic.JOBS)

    @asynccontextmanager
    async def _no_other_claim(self) -> AsyncIterator[None]:
        """Keeps claims apart, for as long as a renewal has: one that hangs shall keep nothing from
        others.

        Raises:
            Unavailable: the database is; the lease is in doubt then.
        """
        try:
            async with asyncio.timeout(self._settings.worker_beat), self._claiming:
                yield
        except (Unavailable, TimeoutError) as fault:
            self._lease.doubt()
            raise Unavailable("postgresql") from fault

    async def _find(self, limit: int) -> list[AttemptKey]:
        async with self._database.statement() as connection:
            jobs = await ready_jobs(connection, pools=[self._pool.name], limit=limit)
        return [job.delivery for job in jobs]

    def _execution(self, job: ClaimedJob, worker_id: WorkerId) -> Execution:
        execution = Execution(
            job=job,
            worker_id=worker_id,
            handler=self._handlers.get(job.type),
            holds=self._lease.held,
            modes=self._modes,
            reporter=self._reporter,
            max_result_bytes=self._settings.max_result_bytes,
            max_losses=self._settings.max_worker_losses,
            max_interruptions=self._settings.max_interruptions,
            grace=self._settings.worker_cancel_grace,
            on_end=self._on_end,
        )
        self._executions[job.key] = execution
        return execution

    def _reporter(self, execution: Execution) -> AttemptReporter:
        async def write(report: AttemptReport) -> bool:
            taken = await self._reports.write(execution.worker_id, report)
            if not taken:
                # Somebody else decides about the job: there is nothing left to run for.
                execution.stop(StopReason.LOST)
            return taken

        return AttemptReporter(
            key=execution.job.key,
            write=write,
            max_output_bytes=self._settings.max_output_bytes,
            max_result_bytes=self._settings.max_result_bytes,
        )

    # Ending.

    def _on_end(self, execution: Execution, finish: AttemptEnd | None) -> None:
        if finish is None:
            self._on_written([(execution, None, None)])
        elif execution.completes:
            self._finishes.settle(execution, finish)
        else:
            self._finishes.add(execution, finish)

    def _on_written(
        self, ends: Sequence[tuple[Execution, AttemptEnd | None, EventType | None]]
    ) -> None:
        # The common end is in the history and on the streams; a line for each would cost as much as
        # all else that a short job takes.
        silent = None if _log.is_enabled_for(logging.DEBUG) else EventType.SUCCEEDED
        for execution, finish, event in ends:
            job = execution.job
            del self._executions[job.key]
            self._deliveries.release()
            if event is None:
                self.counts.finishes_refused += 1
            else:
                self.counts.ended[event] += 1
            if event is None or event is not silent:
                _log_end(job, finish, event)
        if not self._executions:
            self._none_runs.set()
        self._bus.publish(Topic.EVENTS, Topic.SLOTS)
        if any(event in _WAITS_AGAIN for _, _, event in ends):
            self._bus.publish(Topic.JOBS)

    async def _watch_cancels(self) -> None:
        while True:
            await self._cancels.wait(self._settings.worker_beat)
            if not self._executions:
                continue
            try:
                async with self._database.statement() as connection:
                    requests = await cancel_requests(connection, worker_id=self._lease.worker_id)
            except Unavailable:
                await asyncio.sleep(random.uniform(0.2, 0.6))
                continue
            for key in requests:
                if key in self._executions:
                    self._executions[key].stop(StopReason.CANCEL)

    # The lease.

    def _describe(self) -> NewWorker:
        return NewWorker(
            id=WorkerId(uuid7()),
            tenant=self._pool.tenant,
            name=f"{socket.gethostname()}:{os.getpid()}",
            pool=self._pool.name,
            queues=sorted(self._pool.queues),
            slots=self._settings.worker_slots,
            handlers=[handler.spec for handler in self._handlers],
        )

    def _on_held(self) -> None:
        if not self._lease.draining:
            self._deliveries.resume()
        self._bus.publish(Topic.WORKERS, Topic.JOBS)

    def _on_lost(self) -> None:
        for execution in list(self._executions.values()):
            execution.stop(StopReason.LOST)


async def _keep_running(loop: Callable[[], Awaitable[None]], name: str) -> None:
    """Runs a loop for ever: nobody would notice one that has ended."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - whatever it stumbles over must not end it
            _log.exception("loop_failed", loop=name)
        await asyncio.sleep(random.uniform(0.5, 1.5))


def _log_end(job: ClaimedJob, finish: AttemptEnd | None, event: EventType | None) -> None:
    if event is None or finish is None:
        # Fenced: recovery, a cancellation or the deadline was first.
        name = "attempt_refused" if event is None else _LOG_NAMES[event]
        (_log.warning if event is None else _log.debug)(name, **_facts(job))
        return
    match event:
        case EventType.RETRY_SCHEDULED:
            log = _log.warning
        case EventType.FAILED | EventType.EXPIRED:
            log = _log.error
        case EventType.WORKER_LOST:
            log = _log.warning if finish.state is JobState.QUEUED else _log.error
        case EventType.SUCCEEDED:
            log = _log.debug
        case _:
            log = _log.info
    error = finish.error if event in _FAILURES else None
    more = {} if error is None else error_facts(error)
    log(_LOG_NAMES[event], **_facts(job), **more)


def _facts(job: ClaimedJob) -> dict[str, object]:
    """What stands in each line about a job."""
    return {
        "job_id": str(job.key.job_id),
        "attempt": job.key.attempt,
        "type": job.type,
        "queue": job.queue,
        "correlation_id": job.correlation_id,
    }


def _pool(settings: Settings, handlers: Registry) -> Pool:
    """The pool of all workers that run the same types from the same queues."""
    types = frozenset(handler.spec.type for handler in handlers)
    queues = frozenset(settings.worker_queues)
    parts = (settings.worker_tenant, sorted(queues), sorted(types))
    return Pool(
        name=hashlib.sha256(repr(parts).encode()).hexdigest()[:16],
        tenant=settings.worker_tenant,
        queues=queues,
        types=types,
        workers=1,
        slots=settings.worker_slots,
        running=0,
    )
