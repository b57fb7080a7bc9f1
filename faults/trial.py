"""One trial: a scenario on its own cluster, with one seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from faults.cluster import Cluster, Service
from faults.database import Records
from faults.evidence import TENANT, EventRow, Evidence, JobRow, StreamFilter, StreamLog, Usage
from faults.load import BURST_LABEL, SHARDS, Load, Mix
from faults.measure import Figure, ends, recovery
from faults.other_tenant import submit_jobs_of_other_tenant
from faults.watchers import Metadata, Watchers
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.tasks import end_tasks

# Longest time from the end of the load until all jobs have ended, in seconds.
_DRAIN_TIMEOUT_S = 90.0
# Longest time from the last end until all streams have received the events, in seconds.
_RECEIVE_TIMEOUT_S = 30.0
# Grace period in which an unexpected event would arrive, in seconds.
_GRACE_S = 0.5
# The interval at which the harness measures its own delay, in seconds.
_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class _Fault:
    what: str
    end: float
    limit: float


class Trial:
    """The tools of a scenario: the cluster, the load, the watchers and the figures.

    Args:
        cluster: the running processes.
        seed: the seed of all random choices.
        short: shorten the long waits.
        log: writes a line of progress.

    Attributes:
        rng: the source of all random decisions, seeded with `seed`.
        records: reads of the database, without a link.
        watchers: the streams that the trial follows.
    """

    def __init__(
        self, *, cluster: Cluster, seed: int, short: bool, log: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self.seed = seed
        self.rng = random.Random(seed)
        self.short = short
        self.log = log
        self.records = Records(cluster.postgres.url)
        self.figures: list[Figure] = []
        self.usages: list[Usage] = []
        self.loads: list[Load] = []
        self._other_tenants: list[asyncio.Task[None]] = []
        self._faults: list[_Fault] = []
        # The load runs undisturbed until the first fault starts.
        self._steady: tuple[float, float] | None = None
        self._steady_since = 0.0
        self._stopped = 0.0
        self._checks: list[Callable[[Evidence], None]] = []
        self._unwatched: frozenset[str] = frozenset()
        self._open = AsyncExitStack()
        # The longest stall of the harness itself, in seconds.
        self._stalled = 0.0
        ticking = asyncio.create_task(self._watch_stalls(), name="tick")
        self._open.callback(ticking.cancel)
        self._watchers: list[Watchers] = []
        self.watchers = self.add_watchers()

    def add_watchers(
        self,
        *,
        channels: int = 1,
        window: int | None = None,
        metadata: Callable[[], Metadata] | None = None,
    ) -> Watchers:
        """Return new watchers with their own channels; for the arguments, see `Watchers`."""
        watchers = Watchers(
            self.cluster.targets, channels=channels, window=window, metadata=metadata
        )
        self._open.push_async_callback(watchers.close)
        self._watchers.append(watchers)
        return watchers

    @property
    def streams(self) -> list[StreamLog]:
        """The logs of all followers."""
        return [log for watchers in self._watchers for log in watchers.logs]

    # The load.

    async def load(
        self, *, rate: float = 60.0, mix: Mix | None = None, steady: float = 9.0
    ) -> Load:
        """Start the load and streams that follow it, and wait until the load is steady.

        Args:
            rate: jobs per second.
            mix: the kinds of jobs.
            steady: time to wait, in seconds; the last two thirds give the usual throughput.
        """
        name = f"load-{len(self.loads) + 1}"
        self._follow_load(name)
        await self.watchers.wait_until_live()
        load = Load(
            targets=self.cluster.targets,
            watchers=self.watchers,
            rng=random.Random(self.rng.random()),
            rate=rate,
            mix=mix or Mix(),
            name=name,
        )
        self._open.push_async_callback(load.close)
        self.loads.append(load)
        other_tenant = asyncio.create_task(
            submit_jobs_of_other_tenant(
                self.cluster.settings, load=name, rng=random.Random(self.rng.random())
            ),
            name="other-tenant",
        )
        self._other_tenants.append(other_tenant)
        self._open.push_async_callback(end_tasks, other_tenant)
        load.start()
        self.log(f"{rate:g} jobs/s")
        # Skip the first third, which is the warm-up.
        await asyncio.sleep(steady / 3)
        self._steady_since = time.time()
        await asyncio.sleep(steady * 2 / 3)
        return load

    def _follow_load(self, name: str) -> None:
        """Follow a load through different filters, with and without the client library."""
        watchers = self.watchers
        label = {"load": name}
        shard = {"load": name, "shard": str(self.rng.randrange(SHARDS))}
        watchers.follow("all 1")
        watchers.follow("all 2")
        watchers.follow("load", StreamFilter(labels=label))
        watchers.follow("side queue", StreamFilter(queues=("side",)))
        watchers.follow("shard", StreamFilter(types=("work",), labels=shard))
        watchers.follow("ends", StreamFilter(states=(JobState.SUCCEEDED, JobState.FAILED)))
        watchers.follow_with_client("client's 1", StreamFilter(labels=label))
        watchers.follow_with_client("client's 2", StreamFilter(types=("work",)))

    # Faults and figures.

    @asynccontextmanager
    async def fault(
        self, what: str, *, recovers_within: float | None = None
    ) -> AsyncIterator[None]:
        """Mark the block as a fault.

        Args:
            what: the description, for the log and the report.
            recovers_within: longest recovery of the throughput (I10), in seconds.
        """
        if self._steady is None:
            self._steady = self._steady_since, time.time()
        self.log(what)
        started = time.monotonic()
        yield
        self.log(f"over after {time.monotonic() - started:.1f} s")
        if recovers_within is not None:
            self._faults.append(_Fault(what, time.time(), recovers_within))

    def supervise(self, services: Iterable[Service]) -> None:
        """Restart each of the services whenever it dies."""
        for service in services:
            task = asyncio.create_task(service.supervise(), name=f"supervise {service.name}")
            self._open.callback(task.cancel)

    async def waiting_deliveries(self) -> set[AttemptKey]:
        """Wait until some deliveries in Redis wait for a free slot, and return them.

        Raises:
            TimeoutError: no delivery waited within 10 s.
        """
        async with asyncio.timeout(10):
            while not (waiting := await self.cluster.valkey.waiting_deliveries()):
                await asyncio.sleep(0.02)
        return waiting

    def figure(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Record a figure; a value outside its limits breaks the trial."""
        figure = Figure(name=name, value=value, unit=unit, at_most=at_most, at_least=at_least)
        self.figures.append(figure)
        self.log(str(figure))

    def on_evidence(self, check: Callable[[Evidence], None]) -> None:
        """Call `check` with the evidence at the end of the trial."""
        self._checks.append(check)

    def expect_codes(self, *, only: frozenset[str]) -> None:
        """Require that calls and streams fail only with these codes.

        Args:
            only: the codes allowed.
        """

        def check(evidence: Evidence) -> None:
            seen = [code for s in evidence.submissions for code in s.codes]
            seen += [code for log in evidence.streams for code in log.codes]
            others = sorted(set(seen) - only)
            self.figure("failed calls", len(seen))
            self.figure(
                f"failed calls with an unexpected code{': ' if others else ''}{', '.join(others)}",
                sum(code in others for code in seen),
                at_most=0,
            )

        # Calls that are still open at the end of the scenario count too.
        self.on_evidence(check)

    async def _watch_stalls(self) -> None:
        while True:
            due = time.monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._stalled = max(self._stalled, time.monotonic() - due)

    async def mark_unwatched(self) -> None:
        """Mark all existing jobs as older than the streams: no stream must deliver them."""
        self._unwatched = frozenset(await self.records.jobs())

    async def _read_jobs(self) -> dict[str, JobRow]:
        return {
            job_id: replace(job, unwatched=job_id in self._unwatched)
            for job_id, job in (await self.records.jobs()).items()
        }

    # The end of the trial.

    async def finish(self) -> None:
        """Stop the load, and wait until all jobs have ended and all streams show it."""
        self._stopped = time.time()
        # A stall of the harness distorts every figure.
        self.figure("longest stall of the harness", self._stalled, "s")
        self.log("load stopped; waiting for the end of all jobs")
        for load in self.loads:
            await load.stop()
        await end_tasks(*self._other_tenants)
        if not await self.records.all_ended(within=_DRAIN_TIMEOUT_S):
            self.log(f"{await self.records.unfinished()} jobs have not ended in time")
        jobs, events = await self._read_jobs(), await self.records.events()
        self.log(f"{len(jobs)} jobs with {len(events)} events; waiting for the streams")
        wanted = count_expected_events(jobs, events)
        for watchers in self._watchers:
            await watchers.wait_for_events(wanted, within=_RECEIVE_TIMEOUT_S)
        await asyncio.sleep(_GRACE_S)

    async def evidence(self) -> Evidence:
        """Return all evidence; call `finish` first."""
        jobs, events = await self._read_jobs(), await self.records.events()
        # Jobs in a burst are not part of the usual throughput.
        steady = {j.id for j in jobs.values() if j.tenant == TENANT and BURST_LABEL not in j.labels}
        times = ends(event for event in events if event.job_id in steady)
        recoveries = [
            recovery(
                fault.what,
                times,
                steady=self._steady,
                end=fault.end,
                last=self._stopped,
                limit=fault.limit,
            )
            for fault in self._faults
            if self._steady is not None
        ]
        evidence = Evidence(
            submissions=[s for load in self.loads for s in load.history],
            jobs=jobs,
            events=events,
            ledger=self.cluster.ledger.read(),
            streams=self.streams,
            usages=self.usages,
            recoveries=recoveries,
        )
        own = evidence.of_load_tenant()
        for check in self._checks:
            check(own)
        return evidence

    async def close(self) -> None:
        """Close the load, the watchers and all tasks."""
        await self._open.aclose()


def count_expected_events(
    jobs: Mapping[str, JobRow], events: Sequence[EventRow]
) -> Callable[[StreamLog], int]:
    """Return a function that counts the events a stream should receive."""
    counts: dict[str, int] = {}

    def wanted(log: StreamLog) -> int:
        if log.wanted.job_ids:
            return sum(jobs[job_id].seq for job_id in log.wanted.job_ids if job_id in jobs)
        # Many streams have the same filter.
        key = repr(log.wanted)
        if key not in counts:
            counts[key] = sum(log.wanted.matches(jobs[event.job_id], event) for event in events)
        return counts[key]

    return wanted


async def until(condition: Callable[[], Awaitable[bool]], *, within: float) -> float:
    """Poll `condition` and return the seconds until it is true; NaN after a timeout."""
    started = time.monotonic()
    while time.monotonic() - started < within:
        if await condition():
            return time.monotonic() - started
        await asyncio.sleep(0.1)
    return float("nan")
