"""Pages of jobs, events and subscriptions, bounded in number and in bytes.

Most clients refuse a message above 4 MiB. So a page of large documents ends early; the token says
where it goes on.
"""

from __future__ import annotations

from typing import Final

from headrace.v1 import event_pb2, job_pb2, subscription_service_pb2
from headrace_core.domain.ids import JobId
from headrace_core.domain.query import Query
from headrace_core.store.database import Database
from headrace_core.store.events import list_events
from headrace_core.store.jobs import list_jobs
from headrace_core.store.subscriptions import list_subscriptions
from headrace_gateway.convert import (
    Encoding,
    event_message,
    job_message,
    subscription_message,
)

# A page never becomes larger than this by another item; a single item may be.
MAX_PAGE_BYTES: Final = 3 * 1024 * 1024

# How many jobs with their documents, and how many events, are read at once.
_FULL_JOBS: Final = 16
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
    page: list[event_pb2.JobEvent] = []
    size = 0
    async with database.statement() as conn:
        while True:
            wanted = min(page_size - len(page), _EVENTS)
            events = await list_events(
                conn, tenant=tenant, job_id=job_id, after_seq=after_seq, limit=wanted + 1
            )
            for event in events[:wanted]:
                message = event_message(event, encoding)
                size += message.ByteSize()
                if page and size > MAX_PAGE_BYTES:
                    return page, after_seq
                page.append(message)
                after_seq = event.seq
            if len(events) <= wanted:
                return page, 0
            if len(page) == page_size:
                return page, after_seq


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
