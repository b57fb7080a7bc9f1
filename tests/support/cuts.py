"""Streams that are cut at any moment and resumed anywhere, by the stubs as they are generated."""

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
from support.two_gateways import GatewayProcess

# What names an event for ever.
Name = tuple[str, int]

# A stream is cut behind one of its first responses, as many as this; or when none has come for a
# while, in seconds; or, in some of a hundred cases, before the first one. So it gets somewhere on a
# slow machine too.
_RESPONSES = (2, 10, 40, 160)
_QUIET_S = 1.2
_AT_ONCE = 5

# Seconds between two cuts of a connection with all its streams.
_TCP_S = (1.5, 4.0)

# A client that is cut again and again on a busy machine may be without a response for so long.
_PATIENCE_S = 180.0

# A gateway that was restarted is used again at once.
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


class Cuts:
    """Begins streams at gateways drawn by chance, cuts them, and counts how often they were cut.

    Args:
        gateways: where a stream can begin, straight or through their proxies.
        chance: decides everything.
    """

    def __init__(self, gateways: Sequence[GatewayProcess], chance: random.Random) -> None:
        self.count = 0
        self.chance = chance
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
        """Cuts the connections through the proxies now and then."""
        while not self._over:
            await asyncio.sleep(self.chance.uniform(*_TCP_S))
            for connection in [*self.chance.choice(self._gateways).proxy.connections]:
                connection.drop()

    def end(self) -> None:
        """Lets the streams be."""
        self._over = True

    async def stream(
        self, begin: Callable[[JobServiceStub], Any], take: Callable[[Any], None]
    ) -> bool:
        """Begins a stream somewhere and reads it until it is cut.

        Args:
            begin: makes the call.
            take: gets each response.

        Returns:
            Whether the stream has ended by itself.

        Raises:
            AioRpcError: it was refused.
        """
        call = begin(self.chance.choice(self._stubs))
        responses = self.chance.choice(_RESPONSES)
        patience = 0.0 if self.chance.randrange(100) < _AT_ONCE else None
        begun = False
        try:
            while responses or self._over:
                async with asyncio.timeout(None if self._over else patience):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return True
                begun = True
                take(response)
                responses -= 1
                patience = self.chance.uniform(0, _QUIET_S)
            self.count += 1
        except TimeoutError:
            self.count += 1
        except grpc.aio.AioRpcError as error:
            # A call that comes while a gateway's server stops is cancelled unheard.
            stopping = not begun and error.code() is grpc.StatusCode.CANCELLED
            if error.code() is not grpc.StatusCode.UNAVAILABLE and not stopping:
                raise
            # A gateway that is not there has cut nothing.
            self.count += begun
            await asyncio.sleep(self.chance.uniform(0, 0.2))
        finally:
            call.cancel()
        return False


class JobsWatcher:
    """Follows many jobs, resumed at a cursor: mostly the newest, now and then one of those before,
    as somebody does who died before the newest was saved.

    What comes again must be what came before, event by event.

    Args:
        cuts: begins and cuts its streams.
        job_filter: which jobs.
        cursor: where it begins.
        place_of: decodes a cursor.

    Attributes:
        seen: all events, without those that came again.
        cursors: the place of each cursor, and how many events had come before it.
    """

    def __init__(
        self, cuts: Cuts, job_filter: JobFilter, cursor: str, place_of: Callable[[str], Place]
    ) -> None:
        self.seen: list[Name] = []
        self.cursors: list[tuple[Place, int]] = []
        self._cuts = cuts
        self._filter = job_filter
        self._place_of = place_of
        self._saved = [(cursor, 0)]
        self._at = 0

    async def follow(self) -> None:
        """Follows for ever."""
        while True:
            again = self._cuts.chance.choice((1, 1, 1, 2, 5))
            cursor, self._at = self._saved[-min(again, len(self._saved))]
            request = WatchJobsRequest(filter=self._filter, cursor=cursor)
            begun = len(self.cursors)
            await self._cuts.stream(lambda stub, asked=request: stub.WatchJobs(asked), self._take)
            places = [self._place_of(cursor), *(place for place, _ in self.cursors[begun:])]
            assert places == sorted(places), "a cursor went back"

    def _take(self, response: Any) -> None:
        for event in response.events:
            name = (event.job_id, event.seq)
            if self._at == len(self.seen):
                self.seen.append(name)
            assert self.seen[self._at] == name, "something else came the second time"
            self._at += 1
        self._saved.append((response.cursor, self._at))
        self.cursors.append((self._place_of(response.cursor), self._at))


class JobWatcher:
    """Follows one job after the other to its end, resumed behind the last event or one before it.

    Args:
        cuts: begins and cuts its streams.
        next_job: draws a job.

    Attributes:
        seen: the numbers of the events of each job, without those that came again.
        ended: the jobs that it has followed to their ends.
    """

    def __init__(self, cuts: Cuts, next_job: Callable[[], str]) -> None:
        self.seen: dict[str, list[int]] = {}
        self.ended: set[str] = set()
        self._cuts = cuts
        self._next_job = next_job

    async def follow(self) -> None:
        """Follows for ever."""
        while True:
            job_id = self._next_job()
            if job_id not in self.ended:
                await self._follow(job_id)
                self.ended.add(job_id)
            await asyncio.sleep(0)

    async def _follow(self, job_id: str) -> None:
        seen = self.seen.setdefault(job_id, [])
        ended = False
        while not ended:
            after = max(0, len(seen) - self._cuts.chance.choice((0, 0, 0, 1, 4)))
            request = WatchJobRequest(job_id=job_id, after_seq=after)
            coming = iter(range(after + 1, 1_000_000))

            def take(response: Any, coming: Any = coming) -> None:
                for event in response.events:
                    assert (event.job_id, event.seq) == (job_id, next(coming))
                    if event.seq > len(seen):
                        seen.append(event.seq)

            ended = await self._cuts.stream(lambda stub, asked=request: stub.WatchJob(asked), take)


class ClientWatcher:
    """Follows many jobs with the client, which resumes by itself, from now on.

    Args:
        targets: the gateways.
        of: which jobs, as `Client.watch` takes it.

    Attributes:
        seen: all events.
        live: set once it follows.
    """

    def __init__(self, targets: Sequence[str], **of: Any) -> None:
        self.seen: list[Name] = []
        self.live = asyncio.Event()
        self._targets = targets
        self._of = of

    async def follow(self) -> None:
        """Follows for ever."""
        async with (
            Client(self._targets, resume_timeout=_PATIENCE_S) as client,
            client.watch(**self._of) as watch,
        ):
            self.live.set()
            async for event in watch:
                self.seen.append((event.job_id, event.seq))
