"""The lines that handlers log, in rows of several lines of one attempt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import text

from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job_log import LogChunk, LogLine, LogPosition, StoredLine
from headrace_core.store.sql.connection import Connection

# The maximum size of the lines of a chunk, in bytes; a single line may be larger. A page of
# chunks then fits into a response.
CHUNK_BYTES: Final = 16 * 1024
# The maximum number of chunks that one statement reads.
_PAGE_CHUNKS: Final = 64

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(list[LogLine]).decode


class LogPage(NamedTuple):
    """A page of a job's log.

    Attributes:
        lines: the lines, in order.
        complete: whether no line follows.
    """

    lines: Sequence[StoredLine]
    complete: bool


async def write_logs(conn: Connection, *, worker_id: WorkerId, chunks: Sequence[LogChunk]) -> None:
    """Store chunks of attempts of one worker. A chunk that is already stored is skipped.

    Chunks are dropped if their job is removed, or if their attempt no longer belongs to this
    worker. An attempt that has ended still belongs to it until the job starts again.

    Args:
        conn: a connection, with or without a transaction.
        worker_id: the worker that claimed the attempts.
        chunks: the chunks.
    """
    await conn.execute(_WRITE, {"worker_id": worker_id, **log_parameters(chunks)})


async def list_logs(conn: Connection, *, job_id: JobId, after: LogPosition, limit: int) -> LogPage:
    """Return the lines of a job after a position, in order.

    Args:
        conn: a connection, with or without a transaction.
        job_id: a job of the caller's tenant.
        after: the position of the last line before the page.
        limit: the maximum number of lines.
    """
    rows = await conn.execute(
        _LIST, {"id": job_id, "after_attempt": after.attempt, "after_line": after.line}
    )
    lines = list(_stored_lines(rows, after))
    return LogPage(lines[:limit], complete=len(rows) < _PAGE_CHUNKS and len(lines) <= limit)


async def find_new_logs(
    conn: Connection, *, followed: Mapping[JobId, LogPosition]
) -> Sequence[JobId]:
    """Return the jobs that have lines after a position.

    Args:
        conn: a connection, with or without a transaction.
        followed: the position of each job.
    """
    return await conn.scalars(
        _FIND_NEW,
        {
            "ids": list(followed),
            "attempts": [position.attempt for position in followed.values()],
            "lines": [position.line for position in followed.values()],
        },
    )


def log_parameters(chunks: Sequence[LogChunk]) -> dict[str, Any]:
    """Return the parameters of `LOGGED`.

    The chunks are sorted, so two statements that store the same chunks cannot deadlock.
    """
    ordered = sorted(chunks, key=lambda chunk: (chunk.key, chunk.last))
    return {
        "log_ids": [chunk.key.job_id for chunk in ordered],
        "log_attempts": [chunk.key.attempt for chunk in ordered],
        "log_lasts": [chunk.last for chunk in ordered],
        "log_lines": [_encode(chunk.lines).decode() for chunk in ordered],
    }


def _stored_lines(rows: Sequence[Any], after: LogPosition) -> Iterator[StoredLine]:
    for row in rows:
        lines = _decode(row["lines"])
        for number, line in enumerate(lines, row["last_line"] - len(lines) + 1):
            position = LogPosition(row["attempt"], number)
            if position > after:
                yield StoredLine(position, line)


# The insert, also for a CTE. It takes no lock on the job, so it never waits for a handler's
# transaction.
LOGGED: Final = """
    INSERT INTO job_logs (job_id, attempt, last_line, tenant, lines)
    SELECT j.id, l.attempt, l.last_line, j.tenant, l.lines::json
    FROM unnest(
        CAST(:log_ids AS uuid[]), CAST(:log_attempts AS integer[]), CAST(:log_lasts AS integer[]),
        CAST(:log_lines AS text[])
    ) WITH ORDINALITY AS l (id, attempt, last_line, lines, ordinal)
    JOIN jobs j ON j.id = l.id AND j.attempt = l.attempt AND j.worker_id = :worker_id
    ORDER BY l.ordinal
    ON CONFLICT DO NOTHING
"""

_WRITE = text(LOGGED)

_LIST = text(f"""
    SELECT attempt, last_line, lines::text AS lines FROM job_logs
    WHERE (job_id, attempt, last_line)
            > (CAST(:id AS uuid), CAST(:after_attempt AS integer), CAST(:after_line AS integer))
        AND (job_id, attempt, last_line) <= (CAST(:id AS uuid), {2**31 - 1}, {2**31 - 1})
    ORDER BY job_id, attempt, last_line LIMIT {_PAGE_CHUNKS}
""")

_FIND_NEW = text("""
    SELECT f.id FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS integer[]), CAST(:lines AS integer[])
    ) AS f (id, attempt, line)
    WHERE EXISTS (
        SELECT FROM job_logs l
        WHERE l.job_id = f.id AND (l.attempt, l.last_line) > (f.attempt, f.line)
    )
""")
