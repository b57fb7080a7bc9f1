"""The audit: everything once, in pages; and what may be so for a moment twice."""

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
    audit_jobs,
    audit_rest,
    estimate_jobs,
)
from headrace_core.store.upkeep.diagnosis import is_standby
from headrace_core.store.upkeep.stuck import Stuck, find_stuck

# How many jobs, or batches, one statement looks at: as many as a server reads in a fraction of a
# second.
_JOBS, _BATCHES = 10_000, 100
# The longest that one statement may take, in seconds.
_STATEMENT_S = 120.0
# How often a job that waits for somebody is looked at again, in seconds.
_LOOK_S = 1.0
# What a worker has to end a job past its deadline by itself.
_DEADLINE_GRACE = timedelta(seconds=10)


class OtherSchema(Exception):
    """The database has another schema than this version expects."""

    def __init__(self, found: str | None, expected: str) -> None:
        self.found = found
        self.expected = expected
        has = "no schema of Headrace" if found is None else f"schema {found}"
        super().__init__(f"the database has {has}, and this version expects {expected}")


@dataclass(slots=True, kw_only=True)
class Audit:
    """What came of an audit.

    Attributes:
        jobs, events: how many were looked at.
        breaches: those that are told, of each kind no more than were asked for.
        counts: how many breaches there are of each kind.
        seconds: how long it took.
    """

    jobs: int = 0
    events: int = 0
    breaches: list[Breach] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Auditor:
    """Audits a database.

    Args:
        database: which.
        limit: how many breaches of a kind are told.
        progress: is told how many jobs were looked at, and about how many there are.
        page: how many jobs one statement looks at.
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
        """Looks at everything.

        Args:
            patience: seconds for which a job may wait for somebody; None: for ever, since nobody
                is there.

        Raises:
            OtherSchema: it cannot tell.
            Unavailable: the database cannot be reached, or is too slow.
        """
        began = time.monotonic()
        async with self._database.snapshot(statement_timeout=_STATEMENT_S) as connection:
            await self.read(connection)
        if patience is not None and not await self._is_standby():
            for stuck in sorted(await self._stuck_for(patience)):
                self._note(Breach(stuck.check, f"job {stuck.job_id}", stuck.text))
        self._found.seconds = time.monotonic() - began
        return self._found

    async def _is_standby(self) -> bool:
        """Whether it is a copy: who waits there, and for how long, is not what it seems."""
        async with self._database.statement() as connection:
            return await is_standby(connection)

    async def read(self, connection: Connection) -> Audit:
        """Looks at what is written, and not at who waits.

        Args:
            connection: a snapshot.

        Raises:
            OtherSchema: it cannot tell.
        """
        revision, expected = await read_revision(connection), head_revision()
        if revision != expected:
            raise OtherSchema(revision, expected)
        self._note(*await audit_rest(connection))
        about = await estimate_jobs(connection)
        for audit, size in ((audit_jobs, self._page), (audit_batches, _BATCHES)):
            after: UUID | None = FIRST_ID
            while after is not None:
                page = await audit(connection, after=after, limit=size)
                self._found.jobs += page.jobs
                self._found.events += page.events
                self._note(*page.breaches)
                self._progress(self._found.jobs, max(about, self._found.jobs))
                after = page.last
        return self._found

    async def _stuck_for(self, patience: float) -> set[Stuck]:
        """What has been stuck at every look."""
        end = time.monotonic() + patience
        stuck = await self._stuck()
        while stuck and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(_LOOK_S, left))
            stuck &= await self._stuck()
        return stuck

    async def _stuck(self) -> set[Stuck]:
        async with self._database.snapshot(statement_timeout=_STATEMENT_S) as connection:
            return await find_stuck(connection, deadline_grace=_DEADLINE_GRACE)

    def _note(self, *breaches: Breach) -> None:
        for breach in breaches:
            self._found.counts[breach.check] += 1
            if self._found.counts[breach.check] <= self._limit:
                self._found.breaches.append(breach)
