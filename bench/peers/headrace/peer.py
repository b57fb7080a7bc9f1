"""Headrace: the client package `headrace` through a gateway; the harness starts the services."""

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
from bench.peers.contract import Environment, open_loop, serving, submit_in_batches
from headrace import Client, JobSpec, JobState
from headrace.watch import Watch

_TYPE: Final = "noop"
# Jobs per bulk submit, and the number of concurrent bulk submits.
_BATCH: Final = 1000
_AT_ONCE: Final = 4
_ENDED: Final = tuple(state for state in JobState if state.terminal)
# Separate subqueries use the index for each state.
_UNFINISHED: Final = """
    SELECT (SELECT count(*) FROM jobs WHERE state = 'queued')
        + (SELECT count(*) FROM jobs WHERE state = 'running')
        + (SELECT count(*) FROM jobs WHERE state IN ('scheduled', 'retrying'))
"""


class Control:
    """Serves the harness's requests.

    Args:
        client: the client of the gateway.
        environment: the settings, which contain the database URL.
    """

    def __init__(self, client: Client, environment: Environment) -> None:
        self._client = client
        self._environment = environment
        self._database: asyncpg.Connection | None = None

    async def setup(self) -> None:
        """Wait for the gateway; the harness has migrated the database."""
        await self._client.ping()

    async def fill(self, count: int) -> None:
        """Create jobs with bulk submits."""
        await self._bulk(count, _BATCH)

    async def accept(self, count: int, in_flight: int) -> dict[str, float]:
        """Submit jobs one at a time."""
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def bulk(self, count: int, batch: int) -> dict[str, float]:
        """Submit jobs in bulk."""
        return {"seconds": await self._bulk(count, batch)}

    async def unfinished(self) -> dict[str, int]:
        """Count the job rows that have not ended."""
        if self._database is None:
            self._database = await asyncpg.connect(
                self._environment.database_url,
                server_settings={"search_path": "headrace, public"},
            )
        return {"jobs": await self._database.fetchval(_UNFINISHED)}

    async def latency(self, rate: float, seconds: float) -> dict[str, list[int]]:
        """Submit jobs at fixed times while one WatchJobs stream delivers all ends."""
        async with self._client.watch(types=[_TYPE], states=_ENDED) as events:
            ends = _Ends(events)
            following = asyncio.create_task(ends.follow())

            async def submit_and_wait(number: int) -> None:
                handle = await self._client.submit(_TYPE, {"n": number})
                await ends.wait_for(handle.id)

            try:
                return {"microseconds": await open_loop(rate, seconds, submit_and_wait)}
            finally:
                following.cancel()

    async def end_to_end(
        self, count: int, queues: int = 0, delayed: int = 0, watch: str = "ends"
    ) -> dict[str, Any]:
        """Submit jobs in bulk while one WatchJobs stream delivers the events of the jobs.

        Args:
            count: the number of jobs.
            queues: the number of queues that share the jobs; 0 for the handler's queue.
            delayed: the number of additional jobs that are due one second after the start.
            watch: `ends` to receive only the ends, `all` for every transition.

        Returns:
            `seconds`, and `late_ms`: for each delayed job, the milliseconds from its due time until
            the client knew its end.
        """
        states = _ENDED if watch == "ends" else ()
        async with self._client.watch(types=[_TYPE], states=states) as events:
            start = time.perf_counter()
            due = datetime.now(UTC) + timedelta(seconds=1)
            ids: set[str] = set()
            delayed_ids: set[str] = set()
            ends = _Ends(events)
            following = asyncio.create_task(ends.follow())
            try:
                if delayed:
                    specs = [JobSpec(_TYPE, {"n": n}, schedule_time=due) for n in range(delayed)]
                    delayed_ids |= await self._submit_many(specs)

                async def submit(numbers: range) -> None:
                    ids.update(await self._submit_many(_specs(numbers, queues)))

                await submit_in_batches(count, _BATCH, submit, at_once=_AT_ONCE)
                known = await ends.wait_for_all(ids | delayed_ids)
            finally:
                following.cancel()
        late = [round((ends.times[job_id] - due.timestamp()) * 1000, 3) for job_id in delayed_ids]
        return {"seconds": known - start, "late_ms": late}

    async def _submit(self, number: int) -> None:
        await self._client.submit(_TYPE, {"n": number})

    async def _submit_many(self, specs: Iterable[JobSpec]) -> set[str]:
        return {handle.id for handle in await self._client.submit_many(specs)}

    async def _bulk(self, count: int, batch: int) -> float:
        return await submit_in_batches(
            count, batch, lambda numbers: self._submit_many(_specs(numbers, 0)), at_once=_AT_ONCE
        )


class _Ends:
    """The ends of jobs received on a stream.

    Attributes:
        times: the time at which each end was received, by job id.
    """

    def __init__(self, events: Watch) -> None:
        self.times: dict[str, float] = {}
        self._events = events
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._wanted: set[str] | None = None
        self._all = asyncio.get_running_loop().create_future()

    async def follow(self) -> None:
        """Record ends until cancelled."""
        try:
            async for event in self._events:
                if event.state.terminal:
                    self.times[event.job_id] = time.time()
                    if (awaited := self._awaited.pop(event.job_id, None)) is not None:
                        awaited.set_result(None)
                    if self._wanted is not None:
                        self._wanted.discard(event.job_id)
                        self._raise_failure()
        except Exception as error:  # noqa: BLE001 - raised in all waiters
            for waiting in (self._all, *self._awaited.values()):
                waiting.set_exception(error)

    async def wait_for(self, job_id: str) -> None:
        """Wait until the end of a job is known."""
        if job_id not in self.times:
            self._awaited[job_id] = asyncio.get_running_loop().create_future()
            await self._awaited[job_id]

    async def wait_for_all(self, ids: set[str]) -> float:
        """Wait until the ends of all `ids` are known; return the time (`time.perf_counter()`)."""
        self._wanted = ids - self.times.keys()
        self._raise_failure()
        known: float = await self._all
        return known

    def _raise_failure(self) -> None:
        if not self._wanted and not self._all.done():
            self._all.set_result(time.perf_counter())


def _specs(numbers: range, queues: int) -> list[JobSpec]:
    return [
        JobSpec(_TYPE, {"n": n}, queue=f"queue-{n % queues}" if queues else "") for n in numbers
    ]


async def main() -> None:
    """Run the `control` role; this peer has no other role."""
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
