"""Faults in each store function that the services call, while all services run.

A whole platform runs in this process, with load, streams, clients that call every method, and
restarts of workers and gateways. At the end, the invariants of the fault suite must hold.

`HEADRACE_TEST_FAULT_SEED=7` selects different faults, and
`HEADRACE_TEST_FAULT_METHODS="claim_jobs end_attempts"` limits the faults to these functions.

The two tests that run a platform need `make fault-points` (HEADRACE_TEST_FAULT_POINTS=1), since
they take minutes on a busy machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from faults import handlers as fault_handlers
from faults.database import Records
from faults.evidence import Evidence, StreamFilter
from faults.invariants import judge
from faults.ledger import LEDGER_VARIABLE, Ledger
from faults.load import QUEUES, Load, Mix
from faults.trial import count_expected_events
from faults.watchers import Watchers
from headrace import CallError, Client, JobSpec
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_gateway.streams import timing as streams
from headrace_scheduler.service import Scheduler
from headrace_scheduler.timing import Timing
from headrace_worker.api.registry import Registry, registry
from headrace_worker.service import WorkerService
from support.fault_points import FaultPoints, points
from support.jobs import set_column, submit

SEED = int(os.environ.get("HEADRACE_TEST_FAULT_SEED", "1"))
SELECTED_METHODS = os.environ.get("HEADRACE_TEST_FAULT_METHODS", "").split()

# All store functions that the services call. Add a new function here, and let the load below call
# it.
METHODS = (
    "acknowledge",
    "acquire_subscription",
    "cancel_job",
    "cancel_requests",
    "claim_jobs",
    "count_reports",
    "create_subscription",
    "delete_subscription",
    "expire_overdue",
    "end_attempts",
    "get_job",
    "get_subscription",
    "give_up_lead",
    "held_attempts",
    "list_events",
    "list_jobs",
    "list_logs",
    "list_output",
    "list_workers",
    "read_history",
    "list_subscriptions",
    "list_tenants",
    "listen",
    "live_handlers",
    "live_pools",
    "metered_tenants",
    "next_due",
    "notify",
    "promote_due",
    "prune_jobs",
    "read_end",
    "read_holders",
    "read_installation",
    "read_range",
    "read_start",
    "read_stats",
    "read_unseen",
    "ready_heads",
    "ready_jobs",
    "register_worker",
    "release_watches",
    "remove_lapsed",
    "remove_leftovers",
    "remove_worker",
    "renew_lease",
    "renew_lead",
    "renew_watches",
    "requeue_job",
    "served_queues",
    "submit_batch",
    "submit_jobs",
    "recover_lost",
    "take_lead",
    "take_recount",
    "write_reports",
    "written_ends",
)

# Functions that the load does not call. find_batch and find_submitted only read, for validate_only.
# `complete_in` uses the others; tests/integration/worker tests faults in them.
UNCALLED_METHODS = {
    *("find_batch", "find_submitted", "is_held_open", "was_completed"),
    # These functions run only for tenants with quotas and for deleted tenants.
    *("admit_requeue", "request_cancellations", "submit_metered_batch", "submit_metered_jobs"),
    *("correct_payload_bytes", "count_payload_bytes", "read_usage"),
    # The load follows no logs or overviews, and its handlers log nothing.
    *("count_draining", "count_lanes", "event_contexts", "find_new_logs", "lane_heads"),
    *("read_recent", "write_logs"),
    # These run every few seconds, too rarely for the faults of each function.
    *("add_events", "prune_history", "queue_depths", "read_place"),
}

# Functions that services call only after a failure of another function. Both functions receive
# faults at the same time.
CALLED_AFTER_FAULT_IN = {
    "count_reports": "write_reports",
    "give_up_lead": "take_lead",
    "written_ends": "end_attempts",
}

# Jobs per second, and the mix of their types. Many of the jobs report progress or output.
RATE = 15.0
MIX = Mix(seconds=(0.01, 0.1), reporting=0.3, attached=0.1)
# The number of faults for each method.
FAULTS_PER_METHOD = 2
# Maximum time until a method has received its faults, in seconds.
METHOD_TIMEOUT_S = 30.0
# Maximum time until all jobs have ended after the faults, and for each client call, in seconds.
END_TIMEOUT_S = 45.0
# Short intervals, so that these loops receive as many faults as the other loops.
SHORT_LOOP_INTERVALS = Timing(recover=0.3, prune=0.3, tenants=0.3)
SHORT_RENEWALS = streams.Timing(renew=1.0)
# The duration of faults in all methods, in seconds.
FAULT_DURATION_S = 10.0
SUBSCRIPTION = "trouble"
# The tenant whose jobs are pruned. The invariants do not cover this tenant.
PRUNED_TENANT = "old"
CHECKED_INVARIANTS = ("I1", "I2", "I3", "I4", "I6", "I9")
# The codes that a client may receive when the database fails.
EXPECTED_CODES = {"UNAVAILABLE"}


only_if_requested = pytest.mark.skipif(
    not os.environ.get("HEADRACE_TEST_FAULT_POINTS"), reason="runs only with `make fault-points`"
)
# After a fault during the opening or the return of a connection, the drivers close the connection
# only at its garbage collection. F21 checks in real processes that no connection stays open.
ignores_unclosed_connections = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_function_list_covers_the_store() -> None:
    assert {point.method for point in points()} == {*METHODS, *UNCALLED_METHODS}
    assert len(METHODS) == len(set(METHODS))


@dataclass
class FaultRun:
    """A platform under load, with injected faults.

    Attributes:
        unexpected: the calls that failed with an unexpected code.
    """

    settings: Settings
    targets: list[str]
    handlers: Registry
    watchers: Watchers
    load: Load
    records: Records
    ledger: Ledger
    rng: random.Random
    unexpected: list[str] = field(default_factory=list)
    other_calls: Sequence[asyncio.Task[None]] = ()

    async def repeat(self, name: str, *work: Callable[[Client], Awaitable[object]]) -> None:
        """Repeat actions until cancelled, with a client that does not retry."""
        async with Client(self.targets, retries=0, resume_timeout=600) as client:
            while True:
                for action in work:
                    await self._retry_until_done(name, action, client)
                await asyncio.sleep(self.rng.uniform(0.05, 0.15))

    async def _retry_until_done(
        self, name: str, action: Callable[[Client], Awaitable[object]], client: Client
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    await action(client)
                return
            except CallError as error:
                if error.refusal.code not in EXPECTED_CODES:
                    self.unexpected.append(f"{name}: {error.refusal.code} {error.refusal.message}")
                    return
                await asyncio.sleep(self.rng.uniform(0.02, 0.1))

    async def wait_until_ended(self) -> None:
        """Wait until all jobs have ended and the streams have sent all events."""
        await _end_tasks(self.other_calls)
        await self.load.stop()
        all_ended = await self.records.all_ended(within=END_TIMEOUT_S)
        evidence = await self.evidence()
        unfinished = [
            (job, evidence.by_job()[job.id])
            for job in evidence.jobs.values()
            if job.state not in TERMINAL
        ]
        assert all_ended, f"seed {SEED}: {unfinished}"
        await self.watchers.wait_for_events(
            count_expected_events(evidence.jobs, evidence.events), within=END_TIMEOUT_S
        )

    async def evidence(self) -> Evidence:
        """Return the evidence for the check of the invariants."""
        jobs, events = await self.records.jobs(), await self.records.events()
        judged = {job_id: job for job_id, job in jobs.items() if job.tenant != PRUNED_TENANT}
        return Evidence(
            submissions=self.load.history,
            jobs=judged,
            events=[event for event in events if event.job_id in judged],
            ledger=self.ledger.read(),
            streams=self.watchers.logs,
        )


@pytest.fixture
def fault_points(monkeypatch: pytest.MonkeyPatch) -> FaultPoints:
    """The faults between the services and the store."""
    fault_points = FaultPoints(SEED)
    fault_points.install(monkeypatch)
    return fault_points


@pytest.fixture
async def fault_run(
    settings: Settings, fault_points: FaultPoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[FaultRun]:
    """A running platform, before any fault."""
    monkeypatch.setenv(LEDGER_VARIABLE, str(tmp_path / "ledger"))
    fault_handlers._ledger.cache_clear()
    handlers = Registry()
    work = registry.get("work")
    assert work is not None
    handlers.add(work)
    async with AsyncExitStack() as stack:
        gateways = [Gateway(settings, timing=SHORT_RENEWALS) for _ in range(2)]
        for gateway in gateways:
            await gateway.start()
            stack.push_async_callback(gateway.stop)
        for _ in range(2):
            scheduler = Scheduler(settings, timing=SHORT_LOOP_INTERVALS)
            await scheduler.start()
            stack.push_async_callback(scheduler.stop)
        # A second worker has no Redis, so it claims and sends wake-ups through PostgreSQL.
        without_redis = settings.model_copy(
            update={"redis_url": SecretStr("redis://127.0.0.1:1/0")}
        )
        for each in (settings, without_redis):
            worker = WorkerService(each, handlers)
            await worker.start()
            stack.push_async_callback(worker.stop)
        targets = [f"127.0.0.1:{gateway.port}" for gateway in gateways]
        watchers = Watchers(targets)
        stack.push_async_callback(watchers.close)
        rng = random.Random(SEED)
        load = Load(targets=targets, watchers=watchers, rng=rng, rate=RATE, mix=MIX, name="load")
        stack.push_async_callback(load.close)
        ledger = Ledger(tmp_path / "ledger")
        stack.callback(ledger.close)
        fault_run = FaultRun(
            settings=settings,
            targets=targets,
            handlers=handlers,
            watchers=watchers,
            load=load,
            records=Records(settings.postgresql_url),
            ledger=ledger,
            rng=rng,
        )
        watchers.follow("all")
        watchers.follow("shard", StreamFilter(labels={"shard": "1"}))
        watchers.follow_with_client("client's", StreamFilter(types=("work",)))
        await watchers.wait_until_live()
        load.start()
        other_calls = [
            asyncio.create_task(other_call) for other_call in _run_other_calls(fault_run)
        ]
        stack.push_async_callback(_end_tasks, other_calls)
        fault_run.other_calls = other_calls
        yield fault_run


async def _end_tasks(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for all_ended in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(all_ended, asyncio.CancelledError | None):
            raise all_ended


# Other client calls, and service restarts.


def _run_other_calls(fault_run: FaultRun) -> list[Coroutine[Any, Any, None]]:
    other_calls = OtherCalls(fault_run)
    return [
        fault_run.repeat("queue", lambda client: client.queue_serving("default")),
        fault_run.repeat("read lists", other_calls.read_lists),
        fault_run.repeat("read a job", other_calls.read_a_job),
        fault_run.repeat("batch", other_calls.submit_a_batch),
        fault_run.repeat(
            "cancel",
            other_calls.submit_a_long_job,
            other_calls.cancel,
            other_calls.requeue,
            other_calls.cancel,
        ),
        fault_run.repeat("deadline", other_calls.submit_with_a_short_deadline),
        fault_run.repeat("resume", other_calls.resume),
        fault_run.repeat(
            "subscription",
            other_calls.subscribe,
            other_calls.receive,
            other_calls.unsubscribe,
        ),
        other_calls.restart_workers(),
        other_calls.restart_gateways(),
        other_calls.remove_workers(),
        other_calls.age_jobs(),
    ]


class OtherCalls:
    """Client calls and restarts during the faults. Each may be repeated after an unknown result."""

    def __init__(self, fault_run: FaultRun) -> None:
        self._fault_run = fault_run
        self._rng = fault_run.rng
        self._numbers = itertools.count()
        self._job_id = ""
        self._long_jobs = 0
        self._cursor = ""

    async def read_lists(self, client: Client) -> None:
        await client.stats()
        await client.handlers()
        async for _ in client.list(page_size=10):
            break
        async for _ in client.subscriptions():
            break
        async for _ in client.workers():
            break
        async for _ in client.queues():
            break
        await client.history()

    async def read_a_job(self, client: Client) -> None:
        known = [one.job_id for one in self._fault_run.load.history if one.job_id]
        if known:
            job_id = self._rng.choice(known)
            await client.get(job_id)
            async for _ in client.events(job_id):
                pass
            async for _ in client.output(job_id):
                pass
            async for _ in client.logs(job_id):
                pass

    async def submit_a_batch(self, client: Client) -> None:
        specs = [JobSpec("work", {"seconds": 0.01}, queue=queue) for queue in QUEUES]
        await client.submit_many(specs, request_id=f"batch {next(self._numbers)}")

    async def submit_a_long_job(self, client: Client) -> None:
        # A repeated call must not create another job, because no one would cancel it.
        key = f"long {self._long_jobs}"
        handle = await client.submit("work", {"seconds": 5}, request_id=key)
        self._job_id, self._long_jobs = handle.id, self._long_jobs + 1

    async def cancel(self, client: Client) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        await client.cancel(self._job_id)
        # The request is stored; the worker still has to cancel the attempt.
        async with client.watch_job(self._job_id) as events:
            async for event in events:
                if event.state.terminal:
                    latest = await client.get(self._job_id, full=False)
                    if latest.state.terminal:
                        return

    async def requeue(self, client: Client) -> None:
        try:
            await client.retry(self._job_id)
        except CallError as error:
            # An earlier call succeeded, but its response was lost.
            if error.refusal.code != "FAILED_PRECONDITION":
                raise

    async def submit_with_a_short_deadline(self, client: Client) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        await client.submit("work", {"seconds": 5}, deadline=soon, queue=self._rng.choice(QUEUES))

    async def resume(self, client: Client) -> None:
        async with client.watch(cursor=self._cursor) as events:
            async for _ in events:
                break
            self._cursor = events.cursor

    async def subscribe(self, client: Client) -> None:
        await client.create_subscription(SUBSCRIPTION)
        await client.subscription(SUBSCRIPTION)

    async def receive(self, client: Client) -> None:
        seen = 0
        async with client.subscribe(SUBSCRIPTION) as events:
            async for _ in events:
                seen += 1
                # A message is acknowledged as a whole, even if it has many events.
                if await events.ack() and seen >= 5:
                    break

    async def unsubscribe(self, client: Client) -> None:
        try:
            await client.delete_subscription(SUBSCRIPTION)
        except CallError as error:
            # An earlier call succeeded, but its response was lost.
            if error.refusal.code != "NOT_FOUND":
                raise

    async def restart_workers(self) -> None:
        short_grace = self._fault_run.settings.model_copy(update={"shutdown_grace": 0.1})
        while True:
            worker = WorkerService(short_grace, self._fault_run.handlers)
            # Restart a worker that failed to start, as a supervisor would.
            async with _always_stopped(worker):
                with suppress(Unavailable):
                    await worker.start()
                    await asyncio.sleep(self._rng.uniform(0.2, 0.5))

    async def restart_gateways(self) -> None:
        while True:
            gateway = Gateway(self._fault_run.settings)
            async with _always_stopped(gateway):
                with suppress(Unavailable):
                    await gateway.start()
                    await asyncio.sleep(0.1)

    async def remove_workers(self) -> None:
        """Delete rows of live workers, so that their jobs are recovered as if leases had lapsed."""
        async with self._fault_run.records.connection() as connection:
            while True:
                await asyncio.sleep(self._rng.uniform(1, 3))
                await connection.execute(
                    "DELETE FROM workers WHERE id = (SELECT id FROM workers "
                    "WHERE lease_expire_time > clock_timestamp() ORDER BY random() LIMIT 1)"
                )

    async def age_jobs(self) -> None:
        """Create jobs of another tenant that ended long ago, so they are pruned."""
        database = Database(self._fault_run.settings, application="test")
        try:
            while True:
                # No worker would end a job that was not cancelled.
                aging = asyncio.create_task(self._age_a_job(database))
                try:
                    await asyncio.shield(aging)
                finally:
                    await aging
                await asyncio.sleep(0.2)
        finally:
            await database.close()

    async def _age_a_job(self, database: Database) -> None:
        old = await submit(database, tenant=PRUNED_TENANT)
        async with database.transaction() as connection:
            await cancel_job(connection, tenant=PRUNED_TENANT, job_id=old.id)
        with suppress(AssertionError):
            await set_column(database, old.id, "end_time = now() - interval '10 years'")


@asynccontextmanager
async def _always_stopped(service: Gateway | WorkerService) -> AsyncIterator[None]:
    """Stop a service even if the test is cancelled.

    After a cancelled stop, a service would renew its lease and keep its jobs.
    """
    try:
        yield
    finally:
        stopping = asyncio.create_task(service.stop())
        try:
            await asyncio.shield(stopping)
        finally:
            await stopping


async def _output_by_attempt(settings: Settings) -> list[list[str]]:
    """Return the output of each attempt, read from the events."""
    database = Database(settings, application="test")
    try:
        async with database.statement() as connection:
            rows = await connection.execute(_OUTPUT_BY_ATTEMPT)
        return [[json.loads(piece) for piece in row.pieces] for row in rows]
    finally:
        await database.close()


_OUTPUT_BY_ATTEMPT = text("""
    SELECT array_agg(output::text ORDER BY seq) AS pieces FROM job_events
    WHERE type = 'output' GROUP BY job_id, attempt
""")


async def _check_invariants(fault_run: FaultRun, fault_points: FaultPoints) -> None:
    report = [
        f"{method}: {fault}: {count}" for (method, fault), count in fault_points.counts.items()
    ]
    sys.stdout.write("\n".join([f"seed {SEED}", *sorted(report), ""]))
    verdicts = judge(await fault_run.evidence(), CHECKED_INVARIANTS)
    broken = {name: verdict.broken for name, verdict in verdicts.items() if verdict.broken}
    assert not broken, f"seed {SEED}"
    assert not fault_run.unexpected
    # The history contains each output exactly once.
    outputs = await _output_by_attempt(fault_run.settings)
    assert outputs
    assert [of for of in outputs if of != [f"piece {n}" for n in range(len(of))]] == []


@pytest.mark.timeout(600)
@only_if_requested
@ignores_unclosed_connections
async def test_faults_in_each_function_keep_the_invariants(
    fault_run: FaultRun, fault_points: FaultPoints
) -> None:
    for method in SELECTED_METHODS or METHODS:
        with fault_points.armed({method, CALLED_AFTER_FAULT_IN.get(method, method)}, rate=0.5):
            try:
                async with asyncio.timeout(METHOD_TIMEOUT_S):
                    await fault_points.have_had_faults([method], faults=FAULTS_PER_METHOD)
            except TimeoutError:
                pytest.fail(
                    f"seed {SEED}: {method} received {fault_points.faults_of(method)} faults"
                )
    await fault_run.wait_until_ended()
    await _check_invariants(fault_run, fault_points)


@pytest.mark.timeout(600)
@only_if_requested
@ignores_unclosed_connections
async def test_faults_in_all_functions_keep_the_invariants(
    fault_run: FaultRun, fault_points: FaultPoints
) -> None:
    with fault_points.armed(METHODS, rate=0.05):
        await asyncio.sleep(FAULT_DURATION_S)
    await fault_run.wait_until_ended()
    await _check_invariants(fault_run, fault_points)
