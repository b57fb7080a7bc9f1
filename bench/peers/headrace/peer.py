"""A client of Headrace: the package `headrace`, through a gateway. Its workers are our services."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import uvloop

from bench.peers import contract
from bench.peers.contract import Environment, in_batches, open_loop, serving
from headrace import Client, JobSpec, JobState
from headrace.watch import Watch

_TYPE: Final = "noop"
# A bulk submit, and how many of them are on their way at once.
_BATCH: Final = 1000
_AT_ONCE: Final = 4
_ENDED: Final = tuple(state for state in JobState if state.terminal)
# By the indexes that the states have; what waits for its time has not ended either.
_UNFINISHED: Final = """
    SELECT (SELECT count(*) FROM jobs WHERE state = 'queued')
        + (SELECT count(*) FROM jobs WHERE state = 'running')
        + (SELECT count(*) FROM jobs WHERE state IN ('scheduled', 'retrying'))
"""


class Control:
    """Answers the harness.

    Args:
        client: submits and watches.
        environment: says which database.
    """

    def __init__(self, client: Client, environment: Environment) -> None:
        self._client = client
        self._environment = environment
        self._database: asyncpg.Connection | None = None

    async def setup(self) -> None:
        """The harness has migrated the database; this waits for the gateway."""
        await self._client.ping()

    async def fill(self, count: int) -> None:
        """Bulk submits."""
        await self._bulk(count, _BATCH)

    async def accept(self, count: int, in_flight: int) -> dict[str, float]:
        """Single submits."""
        return {"seconds": await contract.in_flight(count, in_flight, self._submit)}

    async def bulk(self, count: int, batch: int) -> dict[str, float]:
        """Bulk submits."""
        return {"seconds": await self._bulk(count, batch)}

    async def unfinished(self) -> dict[str, int]:
        """How many jobs have not ended, by their rows."""
        if self._database is None:
            self._database = await asyncpg.connect(
                self._environment.database_url,
                server_settings={"search_path": "headrace, public"},
            )
        return {"jobs": await self._database.fetchval(_UNFINISHED)}

    async def latency(self, rate: float, seconds: float) -> dict[str, list[int]]:
        """Single submits, while one WatchJobs stream tells of all ends."""
        async with self._client.watch(types=[_TYPE], states=_ENDED) as events:
            ends = _Ends(events)
            following = asyncio.create_task(ends.follow())

            async def submit_and_wait(number: int) -> None:
                handle = await self._client.submit(_TYPE, {"n": number})
                await ends.of(handle.id)

            try:
                return {"microseconds": await open_loop(rate, seconds, submit_and_wait)}
            finally:
                following.cancel()

    async def end_to_end(
        self, count: int, queues: int = 0, delayed: int = 0, watch: str = "ends"
    ) -> dict[str, Any]:
        """Bulk submits, while one WatchJobs stream tells what becomes of the jobs.

        Args:
            count: how many jobs.
            queues: over how many queues they are spread; 0 for the handler's own.
            delayed: how many more jobs are due in the same second, one second after the start.
            watch: `ends` to be told of the ends alone, `all` for every transition.

        Returns:
            `seconds`, and with delayed ones `late_ms`: how long after they were due their ends were
            known.
        """
        states = _ENDED if watch == "ends" else ()
        async with self._client.watch(types=[_TYPE], states=states) as events:
            began = time.perf_counter()
            due = datetime.now(UTC) + timedelta(seconds=1)
            ids: set[str] = set()
            later: set[str] = set()
            ends = _Ends(events)
            following = asyncio.create_task(ends.follow())
            try:
                if delayed:
                    specs = [JobSpec(_TYPE, {"n": n}, schedule_time=due) for n in range(delayed)]
                    later |= await self._submit_many(specs)

                async def submit(numbers: range) -> None:
                    ids.update(await self._submit_many(_specs(numbers, queues)))

                await in_batches(count, _BATCH, submit, at_once=_AT_ONCE)
                known = await ends.until(ids | later)
            finally:
                following.cancel()
        late = [round((ends.times[job_id] - due.timestamp()) * 1000, 3) for job_id in later]
        return {"seconds": known - began, "late_ms": late}

    async def _submit(self, number: int) -> None:
        await self._client.submit(_TYPE, {"n": number})

    async def _submit_many(self, specs: Iterable[JobSpec]) -> set[str]:
        return {handle.id for handle in await self._client.submit_many(specs)}

    async def _bulk(self, count: int, batch: int) -> float:
        return await in_batches(
            count, batch, lambda numbers: self._submit_many(_specs(numbers, 0)), at_once=_AT_ONCE
        )


class _Ends:
    """The ends that a stream tells.

    Attributes:
        times: when each was known, by the job's id.
    """

    def __init__(self, events: Watch) -> None:
        self.times: dict[str, float] = {}
        self._events = events
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._wanted: set[str] | None = None
        self._all = asyncio.get_running_loop().create_future()

    async def follow(self) -> None:
        """Notes ends until it is cancelled."""
        try:
            async for event in self._events:
                if event.state.terminal:
                    self.times[event.job_id] = time.time()
                    if (awaited := self._awaited.pop(event.job_id, None)) is not None:
                        awaited.set_result(None)
                    if self._wanted is not None:
                        self._wanted.discard(event.job_id)
                        self._check()
        except Exception as error:  # noqa: BLE001 - it belongs to who waits
            for waiting in (self._all, *self._awaited.values()):
                waiting.set_exception(error)

    async def of(self, job_id: str) -> None:
        """Waits until the end of a job is known."""
        if job_id not in self.times:
            self._awaited[job_id] = asyncio.get_running_loop().create_future()
            await self._awaited[job_id]

    async def until(self, ids: set[str]) -> float:
        """Waits until the ends of all these are known; returns when, by `time.perf_counter()`."""
        self._wanted = ids - self.times.keys()
        self._check()
        known: float = await self._all
        return known

    def _check(self) -> None:
        if not self._wanted and not self._all.done():
            self._all.set_result(time.perf_counter())


def _specs(numbers: range, queues: int) -> list[JobSpec]:
    return [
        JobSpec(_TYPE, {"n": n}, queue=f"queue-{n % queues}" if queues else "") for n in numbers
    ]


async def main() -> None:
    """The role `control`; there is no other."""
    environment = Environment.read()
    async with Client(os.environ["BENCH_TARGET"], timeout=60) as client:
        control = Control(client, environment)
        await serving(
            {
                "setup": control.setup,
                "fill": control.fill,
                "accept": control.accept,
                "bulk": control.bulk,
                "unfinished": control.unfinished,
                "latency": control.latency,
                "end_to_end": control.end_to_end,
            }
        )


if __name__ == "__main__":
    uvloop.run(main())
