"""One trial: a scenario on a cluster of its own, with one seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from faults.cluster import Cluster, Service
from faults.database import Records
from faults.evidence import TENANT, EventRow, Evidence, JobRow, StreamLog, Usage, Wanted
from faults.load import BURST, SHARDS, Load, Mix
from faults.measure import Figure, ends, recovery
from faults.neighbour import live
from faults.watchers import Watchers
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.tasks import end_tasks

# How long jobs may take to end, and streams to show that, once the load has stopped, in seconds.
_DRAIN_S = 90.0
_SHOW_S = 30.0
# Long enough for what must not come to have come, in seconds.
_SURPLUS_S = 0.5
# How often the harness looks whether it is late itself, in seconds.
_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class _Fault:
    what: str
    end: float
    limit: float


class Trial:
    """What a scenario works with.

    Args:
        cluster: the processes, which serve.
        seed: decides everything that is left to chance.
        short: whether long waits may be shorter.
        say: is told in a line what happens.

    Attributes:
        chance: draws from the seed.
        records: the database, past all links.
        watchers: streams that are followed.
    """

    def __init__(
        self, *, cluster: Cluster, seed: int, short: bool, say: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self.seed = seed
        self.chance = random.Random(seed)
        self.short = short
        self.say = say
        self.records = Records(cluster.postgres.url)
        self.figures: list[Figure] = []
        self.usages: list[Usage] = []
        self.loads: list[Load] = []
        self._neighbours: list[asyncio.Task[None]] = []
        self._faults: list[_Fault] = []
        # The first fault's begin bounds the time in which the load ran undisturbed.
        self._steady: tuple[float, float] | None = None
        self._steady_since = 0.0
        self._stopped = 0.0
        self._checks: list[Callable[[Evidence], None]] = []
        self._unwatched: frozenset[str] = frozenset()
        self._open = AsyncExitStack()
        # For how long the harness itself stood still at most, in seconds.
        self._stalled = 0.0
        ticking = asyncio.create_task(self._tick(), name="tick")
        self._open.callback(ticking.cancel)
        self._watchers: list[Watchers] = []
        self.watchers = self.more_watchers()

    def more_watchers(self, *, channels: int = 1, window: int | None = None) -> Watchers:
        """Followers over channels of their own; the arguments are those of `Watchers`."""
        watchers = Watchers(self.cluster.targets, channels=channels, window=window)
        self._open.push_async_callback(watchers.close)
        self._watchers.append(watchers)
        return watchers

    @property
    def streams(self) -> list[StreamLog]:
        """What all followers were shown."""
        return [log for watchers in self._watchers for log in watchers.logs]

    # The load.

    async def load(
        self, *, rate: float = 60.0, mix: Mix | None = None, steady: float = 9.0
    ) -> Load:
        """Starts the load, with streams that follow it, and waits until it runs steadily.

        Args:
            rate: jobs per second.
            mix: what the jobs are.
            steady: for how many seconds it runs undisturbed, from which its throughput is taken.
        """
        name = f"load-{len(self.loads) + 1}"
        self.follow_everything(name)
        await self.watchers.are_live()
        load = Load(
            targets=self.cluster.targets,
            watchers=self.watchers,
            chance=random.Random(self.chance.random()),
            rate=rate,
            mix=mix or Mix(),
            name=name,
        )
        self._open.push_async_callback(load.close)
        self.loads.append(load)
        neighbour = asyncio.create_task(
            live(self.cluster.settings, load=name, chance=random.Random(self.chance.random())),
            name="neighbour",
        )
        self._neighbours.append(neighbour)
        self._open.push_async_callback(end_tasks, neighbour)
        load.start()
        self.say(f"{rate:g} jobs/s")
        # What is being warmed up is not what it will be.
        await asyncio.sleep(steady / 3)
        self._steady_since = time.time()
        await asyncio.sleep(steady * 2 / 3)
        return load

    def follow_everything(self, name: str) -> None:
        """Follows a load in some of the ways that there are."""
        watchers = self.watchers
        label = {"load": name}
        shard = {"load": name, "shard": str(self.chance.randrange(SHARDS))}
        watchers.follow("all 1")
        watchers.follow("all 2")
        watchers.follow("load", Wanted(labels=label))
        watchers.follow("side queue", Wanted(queues=("side",)))
        watchers.follow("shard", Wanted(types=("work",), labels=shard))
        watchers.follow("ends", Wanted(states=(JobState.SUCCEEDED, JobState.FAILED)))
        watchers.follow_with_client("client's 1", Wanted(labels=label))
        watchers.follow_with_client("client's 2", Wanted(types=("work",)))

    # Faults and figures.

    @asynccontextmanager
    async def fault(
        self, what: str, *, recovers_within: float | None = None
    ) -> AsyncIterator[None]:
        """Something fails for the length of the block.

        Args:
            what: said, and in the report.
            recovers_within: seconds after which the throughput must be back (I10).
        """
        if self._steady is None:
            self._steady = self._steady_since, time.time()
        self.say(what)
        began = time.monotonic()
        yield
        self.say(f"over after {time.monotonic() - began:.1f} s")
        if recovers_within is not None:
            self._faults.append(_Fault(what, time.time(), recovers_within))

    def supervise(self, services: Iterable[Service]) -> None:
        """Has services started again whenever they die."""
        for service in services:
            task = asyncio.create_task(service.supervise(), name=f"supervise {service.name}")
            self._open.callback(task.cancel)

    async def deliveries_wait(self) -> set[AttemptKey]:
        """The deliveries in Redis, once there are some that no worker has a slot for.

        Raises:
            TimeoutError: there are none.
        """
        async with asyncio.timeout(10):
            while not (waiting := await self.cluster.valkey.waiting()):
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
        """Notes a figure; one with a limit must keep to it."""
        figure = Figure(name=name, value=value, unit=unit, at_most=at_most, at_least=at_least)
        self.figures.append(figure)
        self.say(str(figure))

    def afterwards(self, check: Callable[[Evidence], None]) -> None:
        """Has figures taken from the evidence in the end."""
        self._checks.append(check)

    def codes(self, *, at_most: frozenset[str]) -> None:
        """Tells with which codes calls and streams failed, and that there were no others.

        Args:
            at_most: the codes that may be.
        """

        def look(evidence: Evidence) -> None:
            seen = [code for s in evidence.submissions for code in s.codes]
            seen += [code for log in evidence.streams for code in log.codes]
            others = sorted(set(seen) - at_most)
            self.figure("failed calls", len(seen))
            self.figure(
                f"with another code{': ' if others else ''}{', '.join(others)}",
                sum(code in others for code in seen),
                at_most=0,
            )

        # In the end: what is still underway when a scenario is over counts as well.
        self.afterwards(look)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._stalled = max(self._stalled, time.monotonic() - due)

    async def nobody_watched(self) -> None:
        """Notes that no stream can show the jobs that there are: it will be opened behind them."""
        self._unwatched = frozenset(await self.records.jobs())

    async def _jobs(self) -> dict[str, JobRow]:
        return {
            job_id: replace(job, unwatched=job_id in self._unwatched)
            for job_id, job in (await self.records.jobs()).items()
        }

    # The end.

    async def settle(self) -> None:
        """Stops the load, and waits until jobs have ended and the streams have shown it."""
        self._stopped = time.time()
        # What the harness is late with itself is in every figure.
        self.figure("the harness stalled for", self._stalled, "s")
        self.say("no more jobs; waiting for those that there are")
        for load in self.loads:
            await load.stop()
        await end_tasks(*self._neighbours)
        if not await self.records.all_ended(within=_DRAIN_S):
            self.say(f"{await self.records.unfinished()} jobs have not ended")
        jobs, events = await self._jobs(), await self.records.events()
        self.say(f"{len(jobs)} jobs with {len(events)} events; waiting for the streams")
        wanted = counting(jobs, events)
        for watchers in self._watchers:
            await watchers.have_shown(wanted, within=_SHOW_S)
        await asyncio.sleep(_SURPLUS_S)

    async def evidence(self) -> Evidence:
        """Everything, read once it has settled."""
        jobs, events = await self._jobs(), await self.records.events()
        # What came at once is not what the throughput was before.
        steady = {j.id for j in jobs.values() if j.tenant == TENANT and BURST not in j.labels}
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
        ours = evidence.without_neighbours()
        for check in self._checks:
            check(ours)
        return evidence

    async def close(self) -> None:
        """Ends all that it has started."""
        await self._open.aclose()


def counting(jobs: Mapping[str, JobRow], events: Sequence[EventRow]) -> Callable[[StreamLog], int]:
    """How many events each stream should show."""
    counts: dict[str, int] = {}

    def wanted(log: StreamLog) -> int:
        if log.wanted.job_ids:
            return sum(jobs[job_id].seq for job_id in log.wanted.job_ids if job_id in jobs)
        # Many streams may want the same.
        key = repr(log.wanted)
        if key not in counts:
            counts[key] = sum(log.wanted.matches(jobs[event.job_id], event) for event in events)
        return counts[key]

    return wanted


async def until(look: Callable[[], Awaitable[bool]], *, within: float) -> float:
    """Looks again and again; how many seconds it took until there was something; NaN for never."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        if await look():
            return time.monotonic() - began
        await asyncio.sleep(0.1)
    return float("nan")
