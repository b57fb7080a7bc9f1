"""Streams of the jobs that a caller may see: of one job, and of all jobs that match a filter."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TypeVar

from headrace_core.domain.access import Right
from headrace_core.domain.errors import HeadraceError
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.job_log import LogPosition
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.domain.query import JobFilter
from headrace_core.runtime.tracing import SpanKind, Tracing
from headrace_core.store.jobs.read import get_job
from headrace_core.store.sql.database import Database
from headrace_gateway.api.visibility import (
    check_visible_id,
    narrow_filter,
    visible_pages,
    visible_stream,
)
from headrace_gateway.calls.call import Call
from headrace_gateway.streams import LogUpdate, Watch, WatchPage

T = TypeVar("T")


class JobStreams:
    """The use cases that follow jobs. A caller that stops early must close the stream.

    Args:
        database: stores the jobs.
        watch: the streams of this gateway.
        tracing: receives the spans of deliveries; None if the gateway writes none.
    """

    def __init__(self, *, database: Database, watch: Watch, tracing: Tracing | None = None) -> None:
        self._database = database
        self._watch = watch
        self._tracing = tracing

    def watch_job(
        self, call: Call, job_id: JobId, after_seq: int, *, idle: float | None
    ) -> AsyncGenerator[list[JobEvent], None]:
        """Return the stream of a job; see `Watch.watch_job`.

        The first item raises JobNotFound if the job is outside of the caller's scope.
        """
        stream = visible_stream(
            call, self._watch.watch_job(call.tenant, job_id, after_seq, idle=idle)
        )
        if not call.principal.scope.covers_all_jobs:
            stream = self._within_scope(call, job_id, stream)
        if self._tracing is None:
            return stream
        return self._traced(self._tracing, call, job_id, stream)

    def watch_job_logs(
        self, call: Call, job_id: JobId, after: LogPosition, *, idle: float | None
    ) -> AsyncGenerator[LogUpdate, None]:
        """Return the stream of a job's log; see `Watch.watch_job_logs`.

        The first item raises JobNotFound if the job is outside of the caller's scope.

        Raises:
            PermissionDenied: the caller may not read jobs.
        """
        # The table of permissions requires only `payload:read`.
        call.require(Right.JOBS_READ)
        stream = self._watch.watch_job_logs(call.tenant, job_id, after, idle=idle)
        if call.principal.scope.covers_all_jobs:
            return stream
        return self._within_scope(call, job_id, stream)

    def watch_jobs(
        self, call: Call, job_filter: JobFilter, cursor: str, *, idle: float | None
    ) -> AsyncGenerator[WatchPage, None]:
        """Return the stream of all jobs that match a filter; see `Watch.watch_jobs`.

        Raises:
            PermissionDenied: the filter selects only jobs outside of the caller's scope.
        """
        narrowed = narrow_filter(call, job_filter)
        return visible_pages(call, self._watch.watch_jobs(call.tenant, narrowed, cursor, idle=idle))

    async def _traced(
        self,
        tracing: Tracing,
        call: Call,
        job_id: JobId,
        stream: AsyncGenerator[list[JobEvent], None],
    ) -> AsyncGenerator[list[JobEvent], None]:
        """Yield the events of a job, and write a span for the delivery of its terminal event.

        The span begins with the event, or when the stream is opened if that is later. It ends when
        gRPC has accepted the event.
        """
        opened = time.time_ns()
        async with aclosing(stream):
            async for events in stream:
                yield events
                if not events or events[-1].state not in TERMINAL:
                    continue
                sent = time.time_ns()
                # The clocks of the database and of this machine can differ.
                begin = min(max(opened, int(events[-1].time.timestamp() * 1e9)), sent)
                with suppress(HeadraceError):
                    async with self._database.statement() as conn:
                        job = await get_job(conn, tenant=call.tenant, job_id=job_id, full=False)
                    span = tracing.start(
                        "deliver",
                        SpanKind.PRODUCER,
                        link=job.trace_context,
                        attributes={
                            "headrace.job.id": str(job_id),
                            "headrace.job.type": job.type,
                            "headrace.tenant": call.tenant,
                        },
                        at=begin,
                    )
                    span.end(at=sent)

    async def _within_scope(
        self, call: Call, job_id: JobId, stream: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """Yield the items of a stream, after a check that the caller may see its job."""
        async with aclosing(stream):
            async with self._database.statement() as conn:
                await check_visible_id(conn, call, job_id)
            async for item in stream:
                yield item
