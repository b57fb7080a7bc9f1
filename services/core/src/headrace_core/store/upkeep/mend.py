"""The repair of unreadable rows. No job changes its state, and no event is lost."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection
from headrace_core.store.upkeep.audit import PAGE_OF_JOBS
from headrace_core.store.upkeep.unreadable_rows import unreadable_rows

# The replacements of documents that cannot be decoded. CHECK constraints require that a
# failed job has an error and that a PROGRESSED event has progress.
_ERROR: Final = (
    "json_build_object('type', 'UNREADABLE', 'message', 'the stored error could not be read', "
    "'retryable', false)"
)
_PROGRESS: Final = (
    "json_build_object('fraction', 0, 'message', '', 'counters', json_build_object())"
)
# Jobs per page.
_PAGE: Final = 10_000

_JOB: Final = {
    "labels": "'{}'::jsonb",
    "retry": "NULL",
    "progress": "NULL",
    "error": _ERROR,
}
_EVENT: Final = {"progress": _PROGRESS, "error": _ERROR}


class MendResult(NamedTuple):
    """The number of rows whose times were clamped, and of documents that were replaced."""

    times: int
    documents: int


async def mend_documents(conn: Connection, *, after: UUID) -> tuple[int, UUID | None]:
    """Replace the unreadable documents of a page of jobs and of their events.

    The times of the rows must be readable. Unreadable handlers are not replaced, because they are
    removed with their worker. Unreadable filters of subscriptions are not replaced either: delete
    the subscription and create it again.

    Args:
        conn: a connection with an open transaction.
        after: the id before the page.

    Returns:
        The number of replaced documents, and the last id of the page; None after the last page.
    """
    documents = 0
    last: UUID | None = await conn.scalar(PAGE_OF_JOBS, {"after": after, "skip": _PAGE - 1})
    for row in await unreadable_rows(conn, after=after, last=last):
        for field in row.fields:
            values = {"id": row.job_id, "seq": row.seq}
            statement = (_MEND_JOB if row.seq is None else _MEND_EVENT)[field]
            await conn.execute(statement, values)
            documents += 1
    return documents, last


_MEND_JOB = {
    field: text(f"UPDATE jobs SET {field} = {value} WHERE id = :id")
    for field, value in _JOB.items()
}
_MEND_EVENT = {
    field: text(f"UPDATE job_events SET {field} = {value} WHERE job_id = :id AND seq = :seq")
    for field, value in _EVENT.items()
}
