"""Streams that are cut at random and resumed at any gateway, with the generated stubs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import grpc
import grpc.aio

from headrace import Client
from headrace.v1.job_service_pb2 import JobFilter, WatchJobRequest, WatchJobsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.store.event_log import Place
from support.processes import GatewayProcess

# The job id and the event number.
EventId = tuple[str, int]

# A stream is cut after one of these numbers of responses, chosen at random.
_RESPONSES = (2, 10, 40, 160)
# A silent stream is cut after at most this time, in seconds.
_MAX_SILENCE_S = 1.2
# The percentage of streams that are cut before their first response. It is low, so that streams
# also progress on a slow machine.
_CUT_AT_ONCE_PERCENT = 5

# Shortest and longest pause between two cuts of a gateway's connections, in seconds.
_CONNECTION_CUT_PAUSE_S = (1.5, 4.0)

# Resume timeout of a client that is cut repeatedly on a busy machine, in seconds.
_RESUME_TIMEOUT_S = 180.0

# Clients reconnect quickly to a restarted gateway.
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


class Cuts:
    """Opens streams at random gateways, cuts them, and counts the cuts.

    Args:
        gateways: the gateways, used directly or through their proxies.
        rng: the source of all random decisions.
    """

    def __init__(self, gateways: Sequence[GatewayProcess], rng: random.Random) -> None:
        self.count = 0
        self.rng = rng
        self._gateways = gateways
        self._over = False
        self._channels = AsyncExitStack()
        self._stubs: list[JobServiceStub] = []

    async def __aenter__(self) -> Self:
        for gateway in self._gateways:
            for target in (gateway.address, gateway.proxy.address):
                channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
                await self._channels.enter_async_context(channel)
                self._stubs.append(JobServiceStub(channel))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channels.aclose()

    async def cut_connections(self) -> None:
        """Cut the connections through the proxies from time to time."""
        while not self._over:
            await asyncio.sleep(self.rng.uniform(*_CONNECTION_CUT_PAUSE_S))
            for connection in [*self.rng.choice(self._gateways).proxy.connections]:
                connection.drop()

    def end(self) -> None:
        """Stop all cuts."""
        self._over = True

    async def stream(
        self, start: Callable[[JobServiceStub], Any], on_response: Callable[[Any], None]
    ) -> bool:
        """Open a stream at a random gateway and read it until it is cut.

        Args:
            start: starts the call on a stub.
            on_response: called with each response.

        Returns:
            True if the stream has ended without a cut.

        Raises:
            AioRpcError: the call failed for a reason other than a restarting gateway.
        """
        call = start(self.rng.choice(self._stubs))
        responses = self.rng.choice(_RESPONSES)
        patience = 0.0 if self.rng.randrange(100) < _CUT_AT_ONCE_PERCENT else None
        started = False
        try:
            while responses or self._over:
                async with asyncio.timeout(None if self._over else patience):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return True
                started = True
                on_response(response)
                responses -= 1
                patience = self.rng.uniform(0, _MAX_SILENCE_S)
            self.count += 1
        except TimeoutError:
            self.count += 1
        except grpc.aio.AioRpcError as error:
            # A stopping server cancels new calls.
            stopping = not started and error.code() is grpc.StatusCode.CANCELLED
            if error.code() is not grpc.StatusCode.UNAVAILABLE and not stopping:
                raise
            # A call to an unavailable gateway is not a cut.
            self.count += started
            await asyncio.sleep(self.rng.uniform(0, 0.2))
        finally:
            call.cancel()
        return False


class JobsWatcher:
    """Follows many jobs, and resumes after the newest cursor or, less often, an older one.

    An older cursor simulates a client that crashed before it stored the newest one.

    Repeated events must equal the earlier ones.

    Args:
        cuts: opens and cuts its streams.
        job_filter: selects the jobs.
        cursor: the cursor to start after.
        place_of: decodes a cursor.

    Attributes:
        seen: all events, without repetitions.
        cursors: the place of each cursor, and the number of events before it.
    """

    def __init__(
        self, cuts: Cuts, job_filter: JobFilter, cursor: str, place_of: Callable[[str], Place]
    ) -> None:
        self.seen: list[EventId] = []
        self.cursors: list[tuple[Place, int]] = []
        self._cuts = cuts
        self._filter = job_filter
        self._place_of = place_of
        self._saved = [(cursor, 0)]
        self._at = 0

    async def follow(self) -> None:
        """Follow until cancelled."""
        while True:
            steps_back = self._cuts.rng.choice((1, 1, 1, 2, 5))
            cursor, self._at = self._saved[-min(steps_back, len(self._saved))]
            request = WatchJobsRequest(filter=self._filter, cursor=cursor)
            started = len(self.cursors)
            await self._cuts.stream(
                lambda stub, sent_request=request: stub.WatchJobs(sent_request), self._record
            )
            places = [self._place_of(cursor), *(place for place, _ in self.cursors[started:])]
            assert places == sorted(places), "a cursor moved back"

    def _record(self, response: Any) -> None:
        for event in response.events:
            name = (event.job_id, event.seq)
            if self._at == len(self.seen):
                self.seen.append(name)
            assert self.seen[self._at] == name, "a repeated event differs"
            self._at += 1
        self._saved.append((response.cursor, self._at))
        self.cursors.append((self._place_of(response.cursor), self._at))


class JobWatcher:
    """Follows jobs to their ends, one by one. Resumes after the last event or an earlier one.

    Args:
        cuts: opens and cuts its streams.
        next_job: returns the id of the job to follow next.

    Attributes:
        seen: the event numbers of each job, without repetitions.
        ended: the jobs whose streams have ended.
    """

    def __init__(self, cuts: Cuts, next_job: Callable[[], str]) -> None:
        self.seen: dict[str, list[int]] = {}
        self.ended: set[str] = set()
        self._cuts = cuts
        self._next_job = next_job

    async def follow(self) -> None:
        """Follow until cancelled."""
        while True:
            job_id = self._next_job()
            if job_id not in self.ended:
                await self._follow(job_id)
                self.ended.add(job_id)
            await asyncio.sleep(0)

    async def _follow(self, job_id: str) -> None:
        seen = self.seen.setdefault(job_id, [])
        has_ended = False
        while not has_ended:
            after = max(0, len(seen) - self._cuts.rng.choice((0, 0, 0, 1, 4)))
            request = WatchJobRequest(job_id=job_id, after_seq=after)
            expected = iter(range(after + 1, 1_000_000))

            def on_response(response: Any, expected: Any = expected) -> None:
                for event in response.events:
                    assert (event.job_id, event.seq) == (job_id, next(expected))
                    if event.seq > len(seen):
                        seen.append(event.seq)

            has_ended = await self._cuts.stream(
                lambda stub, sent_request=request: stub.WatchJob(sent_request), on_response
            )


class ClientWatcher:
    """Follows new events of many jobs with the client library, which resumes automatically.

    Args:
        targets: the addresses of the gateways.
        options: the filter, as arguments of `Client.watch`.

    Attributes:
        seen: all events.
        live: set once the stream is open.
    """

    def __init__(self, targets: Sequence[str], **options: Any) -> None:
        self.seen: list[EventId] = []
        self.live = asyncio.Event()
        self._targets = targets
        self._options = options

    async def follow(self) -> None:
        """Follow until cancelled."""
        async with (
            Client(self._targets, resume_timeout=_RESUME_TIMEOUT_S) as client,
            client.watch(**self._options) as watch,
        ):
            self.live.set()
            async for event in watch:
                self.seen.append((event.job_id, event.seq))
