"""Pages of jobs, events and subscriptions, bounded in number and in bytes.

A page of large items ends early; the token says where the next one begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from google.protobuf.message import Message

from headrace.v1 import (
    event_pb2,
    handler_service_pb2,
    job_pb2,
    job_service_pb2,
    subscription_service_pb2,
)
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import Query
from headrace_core.store.event_log import EventPage, list_events, list_output
from headrace_core.store.jobs.read import list_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.subscriptions import list_subscriptions
from headrace_core.store.workers import live_handlers
from headrace_gateway.calls.limits import MAX_PAGE_BYTES
from headrace_gateway.grpc.convert import (
    Encoding,
    event_message,
    handler_message,
    job_message,
    output_message,
    subscription_message,
)

M = TypeVar("M", bound=Message)

# How many jobs with their documents, and how many events, are read at once.
_FULL_JOBS: Final = 8
_EVENTS: Final = 100
# How many subscriptions are, since each may name many jobs.
_SUBSCRIPTIONS: Final = 16


async def read_job_page(
    database: Database,
    *,
    tenant: str,
    query: Query,
    page_size: int,
    before: JobId | None,
    full: bool,
    encoding: Encoding,
) -> tuple[list[job_pb2.Job], JobId | None]:
    """Jobs that match, the newest first, older than `before`.

    Returns:
        The jobs, and the last one's id when more follow.
    """
    page: list[job_pb2.Job] = []
    size = 0
    async with database.transaction() as conn:
        while True:
            wanted = page_size - len(page)
            if full:
                wanted = min(wanted, _FULL_JOBS)
            # One more than wanted tells whether there is more.
            jobs = await list_jobs(
                conn, tenant=tenant, query=query, limit=wanted + 1, before=before, full=full
            )
            for job in jobs[:wanted]:
                message = job_message(job, encoding)
                size += message.ByteSize()
                if page and size > MAX_PAGE_BYTES:
                    return page, before
                page.append(message)
                before = job.id
            if len(jobs) <= wanted:
                return page, None
            if len(page) == page_size:
                return page, before


async def read_event_page(
    database: Database,
    *,
    tenant: str,
    job_id: JobId,
    after_seq: int,
    page_size: int,
    encoding: Encoding,
) -> tuple[list[event_pb2.JobEvent], int]:
    """Events of a job behind `after_seq`, in order.

    Returns:
        The events, and the last one's number when more follow, else 0.

    Raises:
        JobNotFound: the tenant has no such job.
    """
    read = partial(list_events, tenant=tenant, job_id=job_id)
    return await _read_numbered(
        database, read, partial(event_message, encoding=encoding), after_seq, page_size
    )


async def read_output_page(
    database: Database,
    *,
    tenant: str,
    job_id: JobId,
    after_seq: int,
    page_size: int,
    encoding: Encoding,
) -> tuple[list[job_service_pb2.JobOutput], int]:
    """As `read_event_page`, for the output of a job."""
    read = partial(list_output, tenant=tenant, job_id=job_id)
    return await _read_numbered(
        database, read, partial(output_message, encoding=encoding), after_seq, page_size
    )


async def _read_numbered(
    database: Database,
    read: Callable[..., Awaitable[EventPage]],
    write: Callable[[JobEvent], M],
    after_seq: int,
    page_size: int,
) -> tuple[list[M], int]:
    page: list[M] = []
    size = 0
    async with database.statement() as conn:
        while True:
            wanted = min(page_size - len(page), _EVENTS)
            # One more than wanted shows whether there is more.
            found = await read(conn, after_seq=after_seq, limit=wanted + 1)
            for event in found.events[:wanted]:
                message = write(event)
                size += message.ByteSize()
                if page and size > MAX_PAGE_BYTES:
                    return page, after_seq
                page.append(message)
                after_seq = event.seq
            if found.complete:
                return page, 0
            if len(page) == page_size:
                return page, after_seq


async def read_handler_page(
    database: Database, *, tenant: str, after: str, page_size: int, encoding: Encoding
) -> tuple[list[handler_service_pb2.Handler], str]:
    """Handlers of live workers by type, behind the type `after`.

    Returns:
        The handlers, and the last one's type when more follow, else nothing.
    """
    page: list[handler_service_pb2.Handler] = []
    size = 0
    async with database.statement() as conn:
        handlers = await live_handlers(conn, tenant=tenant)
    handlers = sorted(
        (handler for handler in handlers if handler.spec.type > after),
        key=lambda handler: handler.spec.type,
    )
    for handler in handlers:
        message = handler_message(handler, encoding)
        size += message.ByteSize()
        if page and (len(page) == page_size or size > MAX_PAGE_BYTES):
            return page, page[-1].type
        page.append(message)
    return page, ""


async def read_subscription_page(
    database: Database, *, tenant: str, after: str, page_size: int
) -> tuple[list[subscription_service_pb2.Subscription], str]:
    """Subscriptions by name, behind the name `after`.

    Returns:
        The subscriptions, and the last one's name when more follow, else nothing.
    """
    page: list[subscription_service_pb2.Subscription] = []
    size = 0
    async with database.statement() as conn:
        while True:
            wanted = min(page_size - len(page), _SUBSCRIPTIONS)
            subscriptions = await list_subscriptions(
                conn, tenant=tenant, after=after, limit=wanted + 1
            )
            for subscription in subscriptions[:wanted]:
                message = subscription_message(subscription)
                size += message.ByteSize()
                if page and size > MAX_PAGE_BYTES:
                    return page, after
                page.append(message)
                after = subscription.name
            if len(subscriptions) <= wanted:
                return page, ""
            if len(page) == page_size:
                return page, after
