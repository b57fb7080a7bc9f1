"""The audit of a database: one pass over all rows, and repeated searches for stuck jobs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from headrace_core.store.migrate import head_revision, read_revision
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.upkeep.audit import (
    FIRST_ID,
    Breach,
    audit_batches,
    audit_chains,
    audit_jobs,
    audit_small_tables,
    estimate_jobs,
)
from headrace_core.store.upkeep.diagnosis import is_standby
from headrace_core.store.upkeep.stuck import StuckJob, find_stuck

# The numbers of jobs, batches and audit events that one statement reads in a fraction of a second.
_JOBS, _BATCHES, _AUDIT_EVENTS = 10_000, 100, 5_000
# Time limit of a statement, in seconds.
_STATEMENT_S = 120.0
# Seconds between two searches for stuck jobs.
_SEARCH_S = 1.0
# The time in which a worker ends a job after its deadline.
_DEADLINE_GRACE = timedelta(seconds=10)


class SchemaMismatch(Exception):
    """The schema version of the database differs from the version that this code expects."""

    def __init__(self, found: str | None, expected: str) -> None:
        self.found = found
        self.expected = expected
        actual = "no Headrace schema" if found is None else f"schema {found}"
        super().__init__(f"the database has {actual}, but this version expects {expected}")


@dataclass(slots=True, kw_only=True)
class Audit:
    """The result of an audit.

    Attributes:
        jobs: the number of audited jobs.
        events: the number of audited events.
        breaches: the reported breaches, up to the limit for each check.
        counts: the number of all breaches, by check.
        seconds: the duration of the audit.
    """

    jobs: int = 0
    events: int = 0
    breaches: list[Breach] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Auditor:
    """Audits a database.

    Args:
        database: the database to audit.
        limit: the maximum number of reported breaches per check.
        progress: called with the number of audited jobs and the approximate number of all jobs.
        page: the number of jobs that one statement reads.
    """

    def __init__(
        self,
        database: Database,
        *,
        limit: int,
        progress: Callable[[int, int], None],
        page: int = _JOBS,
    ) -> None:
        self._database = database
        self._limit = limit
        self._progress = progress
        self._page = page
        self._found = Audit()

    async def run(self, *, patience: float | None) -> Audit:
        """Audit all rows and search for stuck jobs.

        Args:
            patience: seconds a job may wait before it counts as stuck; None if no service is
                running, so no job counts as stuck.

        Raises:
            SchemaMismatch: the database has a different schema version.
            Unavailable: the database cannot be reached, or is too slow.
        """
        start = time.monotonic()
        async with self._database.snapshot(statement_timeout=_STATEMENT_S) as connection:
            await self.read(connection)
        if patience is not None and not await self._is_standby():
            for stuck in sorted(await self._stuck_for(patience)):
                self._add(Breach(stuck.check, f"job {stuck.job_id}", stuck.text))
        self._found.seconds = time.monotonic() - start
        return self._found

    async def _is_standby(self) -> bool:
        """Return whether the server is a standby; its lag can make jobs seem stuck."""
        async with self._database.statement() as connection:
            return await is_standby(connection)

    async def read(self, connection: Connection) -> Audit:
        """Audit all rows, without a search for stuck jobs.

        Args:
            connection: a snapshot.

        Raises:
            SchemaMismatch: the database has a different schema version.
        """
        revision, expected = await read_revision(connection), head_revision()
        if revision != expected:
            raise SchemaMismatch(revision, expected)
        self._add(*await audit_small_tables(connection))
        self._add(*await audit_chains(connection, limit=_AUDIT_EVENTS))
        estimate = await estimate_jobs(connection)
        for audit, size in ((audit_jobs, self._page), (audit_batches, _BATCHES)):
            after: UUID | None = FIRST_ID
            while after is not None:
                page = await audit(connection, after=after, limit=size)
                self._found.jobs += page.jobs
                self._found.events += page.events
                self._add(*page.breaches)
                self._progress(self._found.jobs, max(estimate, self._found.jobs))
                after = page.last
        return self._found

    async def _stuck_for(self, patience: float) -> set[StuckJob]:
        """Return the jobs that stay stuck for `patience` seconds."""
        end = time.monotonic() + patience
        stuck = await self._find_stuck()
        while stuck and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(_SEARCH_S, left))
            stuck &= await self._find_stuck()
        return stuck

    async def _find_stuck(self) -> set[StuckJob]:
        async with self._database.snapshot(statement_timeout=_STATEMENT_S) as connection:
            return await find_stuck(connection, deadline_grace=_DEADLINE_GRACE)

    def _add(self, *breaches: Breach) -> None:
        for breach in breaches:
            self._found.counts[breach.check] += 1
            if self._found.counts[breach.check] <= self._limit:
                self._found.breaches.append(breach)
