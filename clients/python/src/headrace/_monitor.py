"""The client's calls for workers, queues, overviews and histories."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import fields
from typing import Any

from grpc import aio

from headrace._calls import Calls
from headrace._convert import from_counts, optional_span, optional_time, to_duration
from headrace._gateways import Gateway
from headrace._headers import Metadata
from headrace.job import Duration
from headrace.monitor import (
    FailingType,
    History,
    HistoryPoint,
    Latency,
    OldestJob,
    Overview,
    QueueStatus,
    Rates,
    RunningJob,
    Worker,
)
from headrace.v1 import monitor_service_pb2


class MonitorCalls:
    """The client's calls for workers, queues, overviews and histories."""

    _calls: Calls

    async def workers(self) -> AsyncGenerator[Worker, None]:
        """Yield the workers that serve the tenant, in the order of their start."""
        request = monitor_service_pb2.ListWorkersRequest()
        while True:
            page = await self._calls.unary(lambda gateway: gateway.monitor.ListWorkers, request)
            for message in page.workers:
                yield _worker(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def queues(self) -> AsyncGenerator[QueueStatus, None]:
        """Yield the queues with jobs, and those that workers name, in name order."""
        request = monitor_service_pb2.ListQueuesRequest(page_size=1000)
        while True:
            page = await self._calls.unary(lambda gateway: gateway.monitor.ListQueues, request)
            for message in page.queues:
                yield _queue(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def history(
        self,
        range: Duration | None = None,  # noqa: A002 - the name in the API
        *,
        step: Duration | None = None,
        queue: str = "",
        type: str = "",  # noqa: A002 - the name in the API
    ) -> History:
        """Return the counts and durations of past periods.

        Args:
            range: the time before now, as a timedelta or in seconds; None for an hour.
            step: the length of a period, in whole minutes; None to let the gateway choose it.
            queue: only jobs of this queue; empty for all queues.
            type: only jobs of this type; empty for all types.
        """
        request = monitor_service_pb2.GetHistoryRequest(
            range=None if range is None else to_duration(range, "range"),
            step=None if step is None else to_duration(step, "step"),
            queue=queue,
            type=type,
        )
        response = await self._calls.unary(lambda gateway: gateway.monitor.GetHistory, request)
        return History(
            points=tuple(map(_point, response.points)), step=optional_span(response, "step")
        )

    async def watch_overview(
        self, *, interval: Duration | None = None
    ) -> AsyncGenerator[Overview, None]:
        """Yield the current overview, and a new one after each change.

        The stream continues at another gateway when a gateway stops. Each overview is complete, so
        nothing is lost in between.

        Args:
            interval: the minimum time between two overviews, as a timedelta or in seconds; None
                for 0.2 s.
        """
        request = monitor_service_pb2.WatchOverviewRequest(
            interval=None if interval is None else to_duration(interval, "interval")
        )

        def start(gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
            return gateway.monitor.WatchOverview(request, metadata=headers)

        stream = self._calls.stream(endless=True)
        try:
            while (response := await stream.next(start)) is not None:
                if response.HasField("overview"):
                    yield _overview(response.overview)
        finally:
            await stream.aclose()


def _worker(message: monitor_service_pb2.Worker) -> Worker:
    return Worker(
        id=message.id,
        name=message.name,
        pool=message.pool,
        tenants=tuple(message.tenants),
        queues=tuple(message.queues),
        types=tuple(message.types),
        slots=message.slots,
        busy_slots=message.busy_slots,
        running_jobs=tuple(
            RunningJob(
                job_id=job.job_id,
                type=job.type,
                queue=job.queue,
                attempt=job.attempt,
                start_time=optional_time(job, "start_time"),
            )
            for job in message.running_jobs
        ),
        draining=message.draining,
        live=message.live,
        start_time=optional_time(message, "start_time"),
        heartbeat_time=optional_time(message, "heartbeat_time"),
        lease_expire_time=optional_time(message, "lease_expire_time"),
    )


def _queue(message: monitor_service_pb2.QueueStatus) -> QueueStatus:
    return QueueStatus(
        queue=message.queue,
        states=from_counts(message.states),
        oldest_queue_time=optional_time(message, "oldest_queue_time"),
        workers=message.workers,
        slots=message.slots,
    )


def _latency(message: monitor_service_pb2.Latency) -> Latency:
    return Latency(
        count=message.count, p50=optional_span(message, "p50"), p95=optional_span(message, "p95")
    )


def _plain(message: Any, of: type, *names: str) -> dict[str, Any]:
    """Return the numbers of a message that has the same fields as a class, except `names`."""
    return {one.name: getattr(message, one.name) for one in fields(of) if one.name not in names}


def _point(message: monitor_service_pb2.HistoryPoint) -> HistoryPoint:
    return HistoryPoint(
        start_time=optional_time(message, "start_time"),
        wait=_latency(message.wait),
        run=_latency(message.run),
        **_plain(message, HistoryPoint, "start_time", "wait", "run"),
    )


def _overview(message: monitor_service_pb2.Overview) -> Overview:
    oldest = message.oldest_job
    return Overview(
        overview_time=optional_time(message, "overview_time"),
        count_time=optional_time(message, "count_time"),
        states=from_counts(message.states),
        queues=tuple(map(_queue, message.queues)),
        omitted_queues=message.omitted_queues,
        oldest_job=OldestJob(
            job_id=oldest.job_id,
            queue=oldest.queue,
            type=oldest.type,
            queue_time=optional_time(oldest, "queue_time"),
        )
        if message.HasField("oldest_job")
        else None,
        workers=message.workers,
        draining_workers=message.draining_workers,
        slots=message.slots,
        busy_slots=message.busy_slots,
        rates=tuple(
            Rates(window=optional_span(rates, "window"), **_plain(rates, Rates, "window"))
            for rates in message.rates
        ),
        wait=_latency(message.wait),
        run=_latency(message.run),
        failing_types=tuple(
            FailingType(
                type=failing.type,
                error_type=failing.error_type,
                attempts=failing.attempts,
                last_job_id=failing.last_job_id,
                last_time=optional_time(failing, "last_time"),
            )
            for failing in message.failing_types
        ),
    )
