"""MonitorService: each method converts its request and the result of its use case."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from functools import lru_cache
from typing import Literal

from headrace.v1 import monitor_service_pb2 as messages
from headrace.v1.job_service_pb2 import WATCH_MARK_IDLE
from headrace_core.domain.monitor import (
    HistoryPoint,
    Latency,
    Overview,
    QueueStatus,
    Rates,
    WorkerStatus,
    latency_of,
)
from headrace_gateway.api.monitor import Monitor
from headrace_gateway.api.validation import Violations
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.decode import read_duration, read_idle_interval, seconds_of
from headrace_gateway.grpc.encode import duration_message, state_counts, timestamp
from headrace_gateway.grpc.pages import MessagePage


class MonitorServicer:
    """Shows workers, queues and rates.

    Args:
        monitor: the use cases.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    async def ListWorkers(
        self, request: messages.ListWorkersRequest, call: Call
    ) -> messages.ListWorkersResponse:
        """List the workers that serve the tenant."""
        page = MessagePage(_worker_message)
        token = await self._monitor.list_workers(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListWorkersResponse(workers=page.messages, next_page_token=token)

    async def ListQueues(
        self, request: messages.ListQueuesRequest, call: Call
    ) -> messages.ListQueuesResponse:
        """List the queues of the tenant."""
        page = MessagePage(_queue_message)
        token, time = await self._monitor.list_queues(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListQueuesResponse(
            queues=page.messages, next_page_token=token, measure_time=timestamp(time)
        )

    async def WatchOverview(
        self, request: messages.WatchOverviewRequest, call: Call
    ) -> AsyncGenerator[messages.WatchOverviewResponse, None]:
        """Send the overview of the tenant, and a new one after each change."""
        stream = self._monitor.watch_overview(
            call,
            interval=seconds_of(request.interval) if request.HasField("interval") else None,
            idle=read_idle_interval(request),
        )
        async with aclosing(stream) as overviews:
            async for overview in overviews:
                yield _IDLE if overview is None else _overview_response(overview)

    async def GetHistory(
        self, request: messages.GetHistoryRequest, call: Call
    ) -> messages.GetHistoryResponse:
        """Return the history of the tenant."""
        found = Violations()
        history = await self._monitor.history(
            call,
            period=_optional_duration(request, "range", found),
            step=_optional_duration(request, "step", found),
            queue=request.queue,
            job_type=request.type,
            violations=found,
        )
        return messages.GetHistoryResponse(
            points=map(_point_message, history.points), step=duration_message(history.step)
        )


def _optional_duration(
    request: messages.GetHistoryRequest, name: Literal["range", "step"], found: Violations
) -> timedelta | None:
    return read_duration(getattr(request, name), name, found) if request.HasField(name) else None


def _point_message(point: HistoryPoint) -> messages.HistoryPoint:
    return messages.HistoryPoint(
        start_time=timestamp(point.time),
        wait=_latency_message(latency_of(point.waits)),
        run=_latency_message(latency_of(point.runs)),
        **point.counts,
    )


_IDLE = messages.WatchOverviewResponse(mark=WATCH_MARK_IDLE)


# All streams of a tenant send the same response.
@lru_cache(maxsize=16)
def _overview_response(overview: Overview) -> messages.WatchOverviewResponse:
    oldest = overview.oldest_job
    return messages.WatchOverviewResponse(
        overview=messages.Overview(
            overview_time=timestamp(overview.time),
            count_time=timestamp(overview.count_time),
            states=state_counts(overview.states),
            queues=map(_queue_message, overview.queues),
            omitted_queues=overview.omitted_queues,
            oldest_job=None
            if oldest is None
            else messages.OldestJob(
                job_id=str(oldest.id) if oldest.id else "",
                queue=oldest.queue,
                type=oldest.type,
                queue_time=timestamp(oldest.queue_time),
            ),
            workers=overview.workers,
            draining_workers=overview.draining_workers,
            slots=overview.slots,
            busy_slots=overview.busy_slots,
            rates=map(_rates_message, overview.rates),
            wait=_latency_message(overview.wait),
            run=_latency_message(overview.run),
            failing_types=[
                messages.FailingType(
                    type=failing.type,
                    error_type=failing.error_type,
                    attempts=failing.attempts,
                    last_job_id=str(failing.last_job_id),
                    last_time=timestamp(failing.last_time),
                )
                for failing in overview.failing_types
            ],
        )
    )


def _rates_message(rates: Rates) -> messages.Rates:
    return messages.Rates(
        window=duration_message(timedelta(seconds=rates.window)),
        submitted=rates.submitted,
        started=rates.started,
        retried=rates.retried,
        succeeded=rates.succeeded,
        failed=rates.failed,
        cancelled=rates.cancelled,
    )


def _latency_message(latency: Latency) -> messages.Latency:
    return messages.Latency(
        count=latency.count,
        p50=duration_message(latency.p50),
        p95=duration_message(latency.p95),
    )


def _worker_message(worker: WorkerStatus) -> messages.Worker:
    return messages.Worker(
        id=str(worker.id),
        name=worker.name,
        pool=worker.pool,
        tenants=sorted(worker.tenants),
        queues=sorted(worker.queues),
        types=worker.types,
        slots=worker.slots,
        busy_slots=worker.busy_slots,
        running_jobs=[
            messages.RunningJob(
                job_id=str(job.id),
                type=job.type,
                queue=job.queue,
                attempt=job.attempt,
                start_time=timestamp(job.start_time),
            )
            for job in worker.running_jobs
        ],
        draining=worker.draining,
        live=worker.live,
        start_time=timestamp(worker.start_time),
        heartbeat_time=timestamp(worker.heartbeat_time),
        lease_expire_time=timestamp(worker.lease_expire_time),
    )


def _queue_message(queue: QueueStatus) -> messages.QueueStatus:
    return messages.QueueStatus(
        queue=queue.queue,
        states=state_counts(queue.states),
        oldest_queue_time=timestamp(queue.oldest_queue_time),
        workers=queue.workers,
        slots=queue.slots,
    )
