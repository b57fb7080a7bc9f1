"""The harness's queries to the database; they bypass the links."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg

from faults.evidence import EventRow, JobRow
from faults.handlers import CALL_POLICY, MAX_RETRY_AFTER, WORK_POLICY
from headrace_core.domain.lifecycle import TERMINAL, EventType, JobState
from headrace_core.domain.retry import RetryPolicy
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.documents import to_overrides

# The handlers' retry policies, by job type.
_POLICIES: Mapping[str, RetryPolicy] = {
    "work": WORK_POLICY,
    "block": WORK_POLICY,
    "call": CALL_POLICY,
}
# The longest delay that a callee may add to a retry, by job type.
_MAX_RETRY_AFTER = {"call": MAX_RETRY_AFTER}

_TERMINAL = [str(state) for state in TERMINAL]


class Records:
    """Reads the database rows that become evidence.

    Args:
        url: the server's own URL, which bypasses the links.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Open a new connection."""
        connection = await asyncpg.connect(
            self._url,
            timeout=30,
            command_timeout=120,
            server_settings={"search_path": Settings().database_schema},
        )
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def idle_transaction(self) -> AsyncIterator[None]:
        """Keep an idle transaction with an assigned id open for the duration of the block."""
        async with self.connection() as connection:
            await connection.execute("BEGIN")
            await connection.execute("SELECT pg_current_xact_id()")
            yield
            await connection.execute("COMMIT")

    async def unfinished(self, *, job_type: str | None = None) -> int:
        """Return the number of jobs that have not ended, for one type or all types."""
        async with self.connection() as connection:
            count: int = await connection.fetchval(
                "SELECT count(*) FROM jobs "
                "WHERE state <> ALL($1) AND ($2::text IS NULL OR type = $2)",
                _TERMINAL,
                job_type,
            )
        return count

    async def all_ended(self, *, within: float) -> bool:
        """Wait until every job has ended; return False after `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while await self.unfinished():
                    await asyncio.sleep(0.2)
                return True
        return False

    async def span(self, job_ids: Sequence[str]) -> float:
        """Return the seconds from the first start of these jobs to their last end."""
        async with self.connection() as connection:
            seconds: float = await connection.fetchval(
                "SELECT extract(epoch FROM max(end_time) - min(start_time))::float8 "
                "FROM jobs WHERE id = ANY ($1::uuid[])",
                job_ids,
            )
        return seconds

    async def sessions(self, application: str) -> int:
        """Return the number of connections with this name in pg_stat_activity."""
        async with self.connection() as connection:
            count: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", application
            )
        return count

    async def jobs(self) -> dict[str, JobRow]:
        """Return all rows of `jobs`."""
        async with self.connection() as connection:
            rows = await connection.fetch(
                "SELECT id, tenant, type, queue, labels::text AS labels, request_id, state, seq, "
                "retry::text AS retry, attempt, worker_losses, result::text AS result FROM jobs"
            )
        jobs = {}
        for row in rows:
            default = _POLICIES.get(row["type"], RetryPolicy())
            policy = to_overrides(row["retry"]).applied_to(default)
            jobs[str(row["id"])] = JobRow(
                id=str(row["id"]),
                tenant=row["tenant"],
                type=row["type"],
                queue=row["queue"],
                labels=json.loads(row["labels"]),
                request_id=row["request_id"],
                state=JobState(row["state"]),
                seq=row["seq"],
                policy=policy,
                attempt=row["attempt"],
                worker_losses=row["worker_losses"],
                result=row["result"],
                max_retry_after=_MAX_RETRY_AFTER.get(row["type"], timedelta()),
            )
        return jobs

    async def events(self) -> list[EventRow]:
        """Return all rows of `job_events`, ordered by job and number."""
        async with self.connection() as connection:
            rows = await connection.fetch(
                "SELECT job_id, seq, type, state, attempt, time, due_time, worker_id "
                "FROM job_events ORDER BY job_id, seq"
            )
        return [
            EventRow(
                job_id=str(row["job_id"]),
                seq=row["seq"],
                type=EventType(row["type"]),
                state=JobState(row["state"]),
                attempt=row["attempt"],
                time=row["time"],
                due_time=row["due_time"],
                worker_id=str(row["worker_id"] or ""),
            )
            for row in rows
        ]

    async def worker_pids(self) -> dict[str, int]:
        """Return the process id of each registered worker, by worker id."""
        async with self.connection() as connection:
            rows = await connection.fetch("SELECT id, name FROM workers")
        return {str(row["id"]): int(row["name"].rpartition(":")[2]) for row in rows}
