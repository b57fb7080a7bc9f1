"""The claims of a worker, and the search for claims whose response was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.claim import claim_jobs, held_attempts
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.waiting import ready_jobs
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_worker.api.registry import Registry
from headrace_worker.attempt.environment import Environment
from headrace_worker.attempt.execution import Execution
from headrace_worker.attempt.slots import Slots
from headrace_worker.lease import Lease
from headrace_worker.writes.results import job_fields

_log = structlog.get_logger()


class Claims:
    """Claim delivered attempts and put each into a slot.

    Args:
        database: the database.
        pool: the name of the worker's pool.
        lease: the lease under which the worker claims.
        handlers: the handlers of the worker.
        slots: receives the claimed attempts.
        environment: the parts that all attempts share.
        publish: sends wake-ups to other processes.
        timeout: the time limit of a claim, in seconds. A lease renewal has the same limit.
    """

    def __init__(
        self,
        *,
        database: Database,
        pool: str,
        lease: Lease,
        handlers: Registry,
        slots: Slots,
        environment: Environment,
        publish: Callable[..., None],
        timeout: float,
    ) -> None:
        self._database = database
        self._pool = pool
        self._lease = lease
        self._handlers = handlers
        self._slots = slots
        self._environment = environment
        self._publish = publish
        self._timeout = timeout
        self._lock = asyncio.Lock()

    async def claim(self, deliveries: Sequence[AttemptKey], most: int) -> list[Execution]:
        """Claim at most `most` attempts. Return them without starting them.

        Raises:
            Unavailable: the database did not answer. The lease is in doubt.
        """
        async with self._exclusive():
            worker_id = self._lease.worker_id
            async with self._database.statement() as connection:
                jobs = await claim_jobs(
                    connection, worker_id=worker_id, deliveries=deliveries, most=most
                )
            if jobs:
                self._publish(Topic.EVENTS)
            if not self._lease.is_held(worker_id):
                # Recovery takes the attempts back.
                return []
            if _log.is_enabled_for(logging.DEBUG):
                for job in jobs:
                    _log.debug("job_started", **job_fields(job))
            executions = [
                Execution(
                    job=job,
                    worker_id=worker_id,
                    handler=self._handlers.get(job.type),
                    environment=self._environment,
                )
                for job in jobs
            ]
            for execution in executions:
                self._slots.occupy(execution)
            return executions

    async def find(self, limit: int) -> list[AttemptKey]:
        """Return at most `limit` attempts that wait for a worker of the pool.

        Raises:
            Unavailable: the database did not answer.
        """
        async with self._database.statement() as connection:
            jobs = await ready_jobs(connection, pools=[self._pool], limit=limit)
        return [job.key for job in jobs]

    async def hand_back_strays(self) -> None:
        """Hand back the attempts that the worker has claimed but is not running.

        The response to a committed claim can be lost. Recovery never takes such an attempt back,
        because its worker is alive.

        Raises:
            Unavailable: the database did not answer. The lease is in doubt.
        """
        # No claim runs in this block, so each claimed attempt is in a slot.
        async with self._exclusive():
            worker_id = self._lease.worker_id
            async with self._database.transaction() as connection:
                held = await held_attempts(connection, worker_id=worker_id)
                if not self._lease.is_held(worker_id):
                    # The attempts that end because of this loss are not strays. Recovery takes them
                    # back.
                    return
                # The statement's guard skips attempts that have just ended.
                strays = [
                    AttemptEnd(key=key, event=EventType.INTERRUPTED)
                    for key in held
                    if key not in self._slots
                ]
                if strays:
                    await end_attempts(connection, worker_id=worker_id, ends=strays)
        if strays:
            _log.warning("strays_handed_back", jobs=len(strays))
            self._publish(Topic.EVENTS, Topic.JOBS)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Serialize claims. A hung claim times out, so it cannot block the next one for long.

        Raises:
            Unavailable: the database did not answer. The lease is in doubt.
        """
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                yield
        except (Unavailable, TimeoutError) as fault:
            self._lease.doubt()
            raise Unavailable("postgresql") from fault


class Strays(Loop):
    """Hand back the attempts of claims that received no response.

    Args:
        claims: the claims of the worker.
        interval: the time between two searches, in seconds.
    """

    name = "strays"

    def __init__(self, claims: Claims, *, interval: float) -> None:
        self._claims = claims
        self._interval = self.first_wait = interval
        # A failed search has put the lease in doubt, and may have blocked claims until it timed
        # out.
        self.retry = (interval, interval)

    async def run_once(self) -> float:
        """Hand back strays; return the seconds until the next search."""
        await self._claims.hand_back_strays()
        return self._interval
