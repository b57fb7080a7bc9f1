"""Watchers: streams that are followed through every fault, with a log of all they showed.

Most of them speak to the gateways without the client, and take the responses as they come: what a
gateway repeats or mixes up shows. The others go through the client, which must hide nothing either.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import grpc
from grpc import aio

from faults.evidence import Name, Shown, StreamLog, Wanted
from headrace import CallError, Client, JobEvent
from headrace.v1 import data_pb2, job_pb2, job_service_pb2
from headrace.v1.job_service_pb2_grpc import JobServiceStub

# The wait before a stream is begun again, before jitter, in seconds.
_WAITS = (0.25, 0.5, 1.0, 2.0, 4.0)
# After so many seconds without a response a stream of many jobs counts as cut; the gateway marks an
# idle one every 15 s.
_SILENCE_S = 45.0
# The client may try for longer than any fault takes.
_RESUME_S = 600.0

_OPTIONS = (
    # Streams over other channels to the same gateway are on other connections.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)

# A slow reader is told to come again, the others to go elsewhere; and what reaches a server in the
# instant in which it stops, its transport cancels.
_CUT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)

_JSON = data_pb2.DATA_ENCODING_JSON


class Follower:
    """One stream, followed until it ends, is closed or fails for good.

    Attributes:
        log: what it has shown.
        live: set while its newest connection has given a response.
    """

    def __init__(self, name: str, wanted: Wanted) -> None:
        self.log = StreamLog(name=name, wanted=wanted)
        self.live = asyncio.Event()
        self._seen: set[Name] = set()
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to follow."""
        self._task = asyncio.create_task(self._run(), name=self.log.name)

    @property
    def ended(self) -> bool:
        """Whether it follows no more."""
        return self._task is not None and self._task.done()

    async def has_shown(self, count: int) -> None:
        """Waits until it has shown so many different events, or has ended."""
        assert self._task is not None
        while len(self._seen) < count and not self._task.done():
            self._grown.clear()
            grown = asyncio.create_task(self._grown.wait())
            await asyncio.wait((grown, self._task), return_when=asyncio.FIRST_COMPLETED)
            grown.cancel()

    async def close(self) -> None:
        """Goes away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception as error:  # noqa: BLE001 - a stream that nobody follows must not look well
            self.log.failure = f"{type(error).__name__}: {error}"

    async def _follow(self) -> None:
        raise NotImplementedError

    def _note(self, shown: Shown) -> None:
        self.log.shown.append(shown)
        self._seen.add(shown.name)
        self._grown.set()


Start = Callable[["RawFollower", JobServiceStub], Any]


class RawFollower(Follower):
    """A stream without the client.

    Args:
        stubs: of the gateways; it begins at the first one, and goes on at the next when it is cut.
        begin: calls a gateway, from where the log ends.
        endless: it has no end, and is never silent for long.

    Attributes:
        cursor, last_seq: where it would resume.
        job: the job's id, once a response tells it.
        reading: while it is cleared, nothing is read.
    """

    def __init__(
        self,
        name: str,
        wanted: Wanted,
        *,
        stubs: Sequence[JobServiceStub],
        begin: Start,
        endless: bool,
    ) -> None:
        super().__init__(name, wanted)
        self.cursor = ""
        self.last_seq = 0
        self.job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reading = asyncio.Event()
        self.reading.set()
        self._stubs = stubs
        self._begin = begin
        self._endless = endless

    async def _follow(self) -> None:
        turn = cuts = 0
        while True:
            self.log.connected.append(time.time())
            call = self._begin(self, self._stubs[turn])
            try:
                while await self._read(call):
                    cuts = 0
                    await self.reading.wait()
                return
            except aio.AioRpcError as failure:
                code = failure.code()
                self.log.codes.append(code.name)
                if code not in _CUT:
                    self.log.failure = f"{code.name}: {failure.details()}"
                    self.job.cancel()
                    return
            except TimeoutError:
                self.log.codes.append("SILENT")
            finally:
                self.live.clear()
                call.cancel()
            wait = _WAITS[min(cuts, len(_WAITS) - 1)]
            cuts += 1
            turn = (turn + 1) % len(self._stubs)
            await asyncio.sleep(random.uniform(wait / 2, wait))

    async def _read(self, call: Any) -> bool:
        """Takes a response; False at the end."""
        async with asyncio.timeout(_SILENCE_S if self._endless else None):
            response = await call.read()
        if response is aio.EOF:
            return False
        self.live.set()
        received, connection = time.time(), len(self.log.connected)
        if isinstance(response, job_service_pb2.SubmitAndWatchResponse):
            if response.HasField("job") and not self.job.done():
                self.job.set_result(response.job.id)
        elif isinstance(response, job_service_pb2.WatchJobsResponse):
            self.cursor = response.cursor or self.cursor
        for event in response.events:
            moment = event.event_time.seconds + event.event_time.nanos / 1e9
            self._note(Shown(connection, event.job_id, event.seq, received, moment))
            self.last_seq = max(self.last_seq, event.seq)
        return True


class ClientFollower(Follower):
    """A stream of the client, which resumes by itself and must show each event once."""

    def __init__(
        self, name: str, wanted: Wanted, events: Callable[[], AsyncGenerator[JobEvent, None]]
    ) -> None:
        super().__init__(name, wanted)
        self._events = events

    async def _follow(self) -> None:
        self.log.connected.append(time.time())
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    moment = event.event_time.timestamp() if event.event_time else 0.0
                    self._note(Shown(1, event.job_id, event.seq, time.time(), moment))
        except CallError as error:
            self.log.codes.append(error.refusal.code)
            raise


class Watchers:
    """All followers of a trial, over a few channels to the gateways.

    Args:
        targets: the gateways. The followers begin at each of them in turn.
        channels: how many connections to each gateway.
        window: how many bytes a gateway may send ahead on a stream that is not read. None: what
            gRPC finds best.
    """

    def __init__(
        self, targets: Sequence[str], *, channels: int = 1, window: int | None = None
    ) -> None:
        self.followers: list[Follower] = []
        options: list[tuple[str, int]] = [*_OPTIONS]
        if window is not None:
            options += [("grpc.http2.lookahead_bytes", window), ("grpc.http2.bdp_probe", 0)]
        self._channels = [
            aio.insecure_channel(target, options=options)
            for _ in range(channels)
            for target in targets
        ]
        self._stubs = [JobServiceStub(channel) for channel in self._channels]
        # One client begins at each gateway.
        self._clients = [
            Client([*targets[turn:], *targets[:turn]], resume_timeout=_RESUME_S)
            for turn in range(len(targets))
        ]

    def follow(self, name: str, wanted: Wanted | None = None, *, cursor: str = "") -> RawFollower:
        """Follows all jobs that match, from now or from a cursor."""
        wanted = wanted or Wanted()
        job_filter = job_service_pb2.JobFilter(
            queues=wanted.queues,
            types=wanted.types,
            states=[
                job_pb2.JobState.Value(f"JOB_STATE_{state.upper()}") for state in wanted.states
            ],
            labels=wanted.labels,
            job_ids=wanted.job_ids,
        )

        def begin(follower: RawFollower, gateway: JobServiceStub) -> Any:
            return gateway.WatchJobs(
                job_service_pb2.WatchJobsRequest(
                    filter=job_filter, cursor=follower.cursor, data_encoding=_JSON
                )
            )

        follower = self._raw(name, wanted, begin, endless=True)
        follower.cursor = cursor
        return follower

    def follow_job(self, job_id: str) -> RawFollower:
        """Follows one job, from its first event on."""

        def begin(follower: RawFollower, gateway: JobServiceStub) -> Any:
            return gateway.WatchJob(
                job_service_pb2.WatchJobRequest(
                    job_id=job_id, after_seq=follower.last_seq, data_encoding=_JSON
                )
            )

        return self._raw(f"job {job_id}", Wanted(job_ids=(job_id,)), begin, endless=False)

    def submit_and_follow(self, spec: job_pb2.JobSpec, request_id: str) -> RawFollower:
        """Submits and follows in one call; the follower's `job` is the id."""

        def begin(follower: RawFollower, gateway: JobServiceStub) -> Any:
            return gateway.SubmitAndWatch(
                job_service_pb2.SubmitAndWatchRequest(
                    job=spec,
                    request_id=request_id,
                    after_seq=follower.last_seq,
                    data_encoding=_JSON,
                )
            )

        # Until it is told the job, it has asked for nothing that could be compared.
        follower = self._raw(f"submit {request_id}", Wanted(job_ids=("",)), begin, endless=False)
        follower.job.add_done_callback(lambda job: _narrow(follower, job))
        return follower

    def follow_with_client(self, name: str, wanted: Wanted) -> ClientFollower:
        """Follows all jobs that match through the client, from now on."""
        client = self._clients[len(self.followers) % len(self._clients)]

        async def events() -> AsyncGenerator[JobEvent, None]:
            watch = client.watch(
                queues=wanted.queues,
                types=wanted.types,
                states=[state.upper() for state in wanted.states],
                labels=wanted.labels,
                job_ids=wanted.job_ids,
            )
            async with watch:
                follower.live.set()
                async for event in watch:
                    yield event

        follower = ClientFollower(name, wanted, events)
        return self._add(follower)

    def follow_job_with_client(self, job_id: str) -> ClientFollower:
        """Follows one job through the client, from its first event on."""
        client = self._clients[len(self.followers) % len(self._clients)]
        name, wanted = f"client's job {job_id}", Wanted(job_ids=(job_id,))
        return self._add(ClientFollower(name, wanted, lambda: client.watch_job(job_id)))

    def _raw(self, name: str, wanted: Wanted, begin: Start, *, endless: bool) -> RawFollower:
        turn = len(self.followers) % len(self._stubs)
        stubs = [*self._stubs[turn:], *self._stubs[:turn]]
        return self._add(RawFollower(name, wanted, stubs=stubs, begin=begin, endless=endless))

    def _add(self, follower: Any) -> Any:
        self.followers.append(follower)
        follower.start()
        return follower

    @property
    def logs(self) -> list[StreamLog]:
        """What all of them have shown."""
        return [follower.log for follower in self.followers]

    async def are_live(self, *, within: float = 30.0) -> None:
        """Waits until each one has its first response, or is known to have begun.

        Raises:
            TimeoutError: one has not.
        """
        async with asyncio.timeout(within):
            await asyncio.gather(*(follower.live.wait() for follower in self.followers))

    async def have_shown(self, wanted: Callable[[StreamLog], int], *, within: float) -> None:
        """Waits until each one has shown as many events as it should, or the time is over.

        Args:
            wanted: how many events belong to a stream.
            within: seconds, for all of them together.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                for follower in self.followers:
                    await follower.has_shown(wanted(follower.log))

    async def close(self) -> None:
        """Ends all of them."""
        await asyncio.gather(*(follower.close() for follower in self.followers))
        await asyncio.gather(*(client.close() for client in self._clients))
        await asyncio.gather(*(channel.close() for channel in self._channels))


def _narrow(follower: RawFollower, job: asyncio.Future[str]) -> None:
    if not job.cancelled():
        follower.log.wanted = Wanted(job_ids=(job.result(),))
