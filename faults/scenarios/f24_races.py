"""F24: races for a key, a job and a worker name; one lost job among many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from faults.evidence import Evidence, Outcome, Submission
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import CallError, Client, JobSpec
from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.pool import NewWorker
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import register_worker, remove_worker, renew_lease

LOAD_PER_S = 20.0
KEYS = 5
SUBMITS_PER_KEY = 200
CONTESTED_JOBS = 30
PARKED_JOBS = 20_000
LEASE_S = 15.0
HEARTBEAT_S = 5.0
MAX_RECOVERY_S = 25.0
# Rows of `jobs` that all sessions may read per second: for the load, and per parked job. The
# scheduler counts running jobs every 10 s, and the roll-up reads the job of each event once. A
# recovery loop that scanned all parked jobs every 2 s would read half a row per parked job and
# second more.
LOAD_ROWS_PER_S = 1_000.0
PARKED_SHARE_PER_S = 1 / 3
# A job type without a handler in the platform's workers.
_TYPE = "parked"
_PAGE = 500
_LOSER_CODES = frozenset({"FAILED_PRECONDITION"})


async def run(trial: Trial) -> None:
    targets = [gateway.address for gateway in trial.cluster.gateways]
    clients = [Client([target], retries=0) for target in targets]
    database = Database(trial.cluster.settings, application="faults")
    try:
        await trial.load(rate=LOAD_PER_S)
        async with trial.fault(f"{SUBMITS_PER_KEY} submits at once with one key, {KEYS} times"):
            await _race_for_keys(trial, clients)
        async with trial.fault(f"cancels, requeues and ends of {CONTESTED_JOBS} jobs at once"):
            await _cancel_and_requeue(trial, clients, seconds=5 if trial.short else 20)
        async with trial.fault("the row of a live worker is deleted"):
            await _delete_worker_row(trial, clients[0])
        parked = PARKED_JOBS // 5 if trial.short else PARKED_JOBS
        async with (
            _parked_jobs(clients[0], database, parked),
            trial.fault(f"a worker is lost while a live one runs {parked} jobs"),
        ):
            max_rows = LOAD_ROWS_PER_S + parked * PARKED_SHARE_PER_S
            await _lose_worker(trial, clients[0], database, max_rows=max_rows)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
        await database.close()
    trial.expect_codes(only=frozenset())
    trial.on_evidence(lambda evidence: _check_results(trial, evidence))


async def _race_for_keys(trial: Trial, clients: Sequence[Client]) -> None:
    ids: list[set[str]] = []
    rejected = 0
    for number in range(KEYS):
        key = f"race-{trial.seed}-{number}"

        async def submit(turn: int, key: str = key) -> str | None:
            # Every tenth submit has different content and is rejected, unless it is the first.
            other = turn % 10 == 9
            submission = Submission(request_id=key, invoked=time.time())
            client = clients[turn % len(clients)]
            try:
                handle = await client.submit("work", {"seconds": 0.2 + other}, request_id=key)
            except CallError as error:
                if error.refusal.code != "ALREADY_EXISTS":
                    raise
                return None
            submission.outcome, submission.job_id = Outcome.OK, handle.id
            submission.responded = time.time()
            trial.loads[0].history.append(submission)
            return handle.id

        found = await asyncio.gather(*(submit(turn) for turn in range(SUBMITS_PER_KEY)))
        ids.append({job_id for job_id in found if job_id is not None})
        rejected += found.count(None)
    trial.figure("jobs per key", max(map(len, ids)), at_most=1, at_least=1)
    trial.figure("rejected submits with different content", rejected, at_least=KEYS)


async def _cancel_and_requeue(trial: Trial, clients: Sequence[Client], *, seconds: float) -> None:
    """Cancel and requeue jobs repeatedly while workers run and end them."""
    rng = trial.rng
    jobs = [
        await clients[0].submit("work", {"seconds": rng.uniform(0.1, 2)})
        for _ in range(CONTESTED_JOBS)
    ]
    codes: list[str] = []
    accepted = 0
    end = time.monotonic() + seconds

    async def repeat(job_id: str, act: Callable[[str], Coroutine[Any, Any, Any]]) -> None:
        nonlocal accepted
        while time.monotonic() < end:
            try:
                await act(job_id)
                accepted += 1
            except CallError as error:
                codes.append(error.refusal.code)
            await asyncio.sleep(rng.uniform(0, 0.1))

    await asyncio.gather(
        *(
            repeat(job.id, act)
            for job in jobs
            for client in clients
            for act in (client.cancel, client.retry)
        )
    )
    trial.figure("cancels and requeues accepted", accepted, at_least=CONTESTED_JOBS)
    trial.figure("cancels and requeues rejected", len(codes), at_least=1)
    others = set(codes) - _LOSER_CODES
    trial.figure(f"other error codes {' '.join(others)}".strip(), len(others), at_most=0)


async def _delete_worker_row(trial: Trial, client: Client) -> None:
    jobs = [await client.submit("work", {"seconds": 8}) for _ in range(12)]
    ids = [UUID(job.id) for job in jobs]

    async def running() -> bool:
        return len(await holders()) == len(jobs)

    async def holders() -> dict[UUID, UUID]:
        async with trial.records.connection() as connection:
            rows = await connection.fetch(
                "SELECT id, worker_id FROM jobs WHERE id = ANY($1) AND state = 'running'", ids
            )
        return {row["id"]: row["worker_id"] for row in rows}

    await until(running, within=10)
    before = await holders()
    deleted_worker = trial.rng.choice(sorted(set(before.values())))
    lost_jobs = [job_id for job_id, worker in before.items() if worker == deleted_worker]
    losses_before = await _metric(trial, "headrace_lease_losses_total")
    async with trial.records.connection() as connection:
        await connection.execute("DELETE FROM workers WHERE id = $1", deleted_worker)

    async def runs_elsewhere() -> bool:
        now = await holders()
        return all(now.get(job_id, deleted_worker) != deleted_worker for job_id in lost_jobs)

    async def is_registered_again() -> bool:
        async with trial.records.connection() as connection:
            count = await connection.fetchval(
                "SELECT count(*) FROM workers WHERE lease_expire_time > clock_timestamp()"
            )
        return bool(count >= len(trial.cluster.workers))

    after = await until(runs_elsewhere, within=MAX_RECOVERY_S * 2)
    trial.figure(
        "time until the jobs of a deleted worker run elsewhere",
        after,
        "s",
        at_most=MAX_RECOVERY_S,
    )
    trial.figure(
        "time until the deleted worker registers again",
        await until(is_registered_again, within=30),
        "s",
        at_most=10,
    )
    lost = await _metric(trial, "headrace_lease_losses_total") - losses_before
    trial.figure("workers that noticed the deletion", lost, at_least=1, at_most=1)


async def _metric(trial: Trial, name: str) -> float:
    return sum([await worker.metric(name) for worker in trial.cluster.workers])


@asynccontextmanager
async def _parked_jobs(client: Client, database: Database, count: int) -> AsyncIterator[None]:
    """Keep `count` jobs running on a live worker for the duration of the block."""
    specs = (JobSpec(_TYPE) for _ in range(count))
    ids = [job.id async for batch in client.submit_in_batches(specs) for job in batch.jobs]
    async with _registered_worker(database, "parking", renews=True) as worker_id:
        for page in _pages(ids):
            assert len(await _claim(database, worker_id, page)) == len(page)
        yield
        for page in _pages(ids):
            assert await _end(database, worker_id, page) == len(page)


async def _lose_worker(
    trial: Trial, client: Client, database: Database, *, max_rows: float
) -> None:
    """Lose a worker that runs a job, and register another worker under its name.

    Args:
        trial, client, database: access to the platform.
        max_rows: the most rows of `jobs` that may be read per second until the job is recovered.
    """
    job = await client.submit(_TYPE)
    async with _registered_worker(database, "twin", renews=False) as first:
        assert await _claim(database, first, [job.id])
        async with _registered_worker(database, "twin", renews=True) as second:
            assert not await _end(database, second, [job.id])
            read = await _rows_read(trial)
            started = time.monotonic()

            async def is_running_again() -> bool:
                return bool(await _claim(database, second, [job.id], attempt=2))

            after = await until(is_running_again, within=MAX_RECOVERY_S * 2)
            trial.figure("time until the lost job runs again", after, "s", at_most=MAX_RECOVERY_S)
            rate = (await _rows_read(trial) - read) / (time.monotonic() - started)
            trial.figure("rows of jobs read", rate, "/s", at_most=max_rows)
            late = [
                await _end(database, first, [job.id], attempt=1),
                await _end(database, first, [job.id], attempt=2),
                await _end(database, second, [job.id], attempt=1),
            ]
            trial.figure("accepted writes with a wrong worker or attempt", sum(late), at_most=0)
            assert await _end(database, second, [job.id], attempt=2)


@asynccontextmanager
async def _registered_worker(
    database: Database, name: str, *, renews: bool
) -> AsyncIterator[WorkerId]:
    """Register a worker that has no process, for the duration of the block.

    The worker is draining, so dispatch does not count its running jobs, and the measurement covers
    only the recovery of lost jobs.
    """
    worker = NewWorker(
        id=WorkerId(uuid7()),
        tenants=["default"],
        name=name,
        pool=name,
        queues=(),
        slots=PARKED_JOBS,
        handlers=(),
    )
    lease = timedelta(seconds=LEASE_S)

    async def renew() -> None:
        async with database.statement() as connection:
            assert await renew_lease(connection, worker_id=worker.id, lease=lease, draining=True)

    async def renew_periodically() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await renew()

    async with database.transaction() as connection:
        await register_worker(connection, worker, lease=lease)
    await renew()
    renewal = (
        asyncio.create_task(renew_periodically(), name=f"renewal of {name}") if renews else None
    )
    try:
        yield worker.id
        assert renewal is None or not renewal.done(), "the lease of a live worker was lost"
    finally:
        if renewal is not None:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
    async with database.statement() as connection:
        await remove_worker(connection, worker_id=worker.id)


def _pages(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE)]


async def _claim(
    database: Database, worker_id: WorkerId, ids: Sequence[str], attempt: int = 1
) -> list[Any]:
    deliveries = [AttemptKey(JobId(UUID(job_id)), attempt) for job_id in ids]
    async with database.statement() as connection:
        return list(await claim_jobs(connection, worker_id=worker_id, deliveries=deliveries))


async def _end(
    database: Database, worker_id: WorkerId, ids: Sequence[str], attempt: int = 1
) -> int:
    """End attempts as succeeded and return the number of accepted ends."""
    ends = [
        AttemptEnd(
            key=AttemptKey(JobId(UUID(job_id)), attempt), event=EventType.SUCCEEDED, result="null"
        )
        for job_id in ids
    ]
    async with database.statement() as connection:
        return len(await end_attempts(connection, worker_id=worker_id, ends=ends))


async def _rows_read(trial: Trial) -> float:
    """Return the number of rows of `jobs` that all sessions have read so far."""
    async with trial.records.connection() as connection:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        count = await connection.fetchval(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
        )
    return float(count)


def _check_results(trial: Trial, evidence: Evidence) -> None:
    """Check that each result, an attempt number, is that of the accepted attempt."""
    wrong = [
        job
        for job in evidence.jobs.values()
        if job.type == "work" and job.result not in (None, str(job.attempt))
    ]
    trial.figure("results of an attempt that was not accepted", len(wrong), at_most=0)


SCENARIO = Scenario(
    id="F24",
    title="races for a key, a job and a worker's name; one lost job among 20,000",
    shows=("I1", "I2", "I3", "I4", "I7", "I9"),
    run=run,
    usual=70,
    usual_short=70,
)
