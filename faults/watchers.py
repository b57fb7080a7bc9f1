"""Watchers: streams that are followed through every fault, with a log of all received events.

Most watchers call the gateways without the client library, so that repeated or reordered events
become visible. The others use the client library, which must not hide events either.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import grpc
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from faults.evidence import EventId, ReceivedEvent, StreamFilter, StreamLog
from headrace import CallError, Client, JobEvent, JobWatch
from headrace.v1 import data_pb2, job_pb2, job_service_pb2
from headrace.v1.job_service_pb2_grpc import JobServiceStub

# The waits before repeated restarts of a stream, without jitter, in seconds.
_RESTART_WAITS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
# A stream of many jobs counts as cut after this many seconds without a response. A gateway sends a
# mark every 15 s on an idle stream.
_MAX_SILENCE_S = 45.0
# Resume timeout of the client, longer than any fault, in seconds.
_RESUME_TIMEOUT_S = 600.0

_OPTIONS = (
    # Gives each channel to a gateway its own connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)

# Codes after which a stream is restarted. A slow reader receives RESOURCE_EXHAUSTED, any other
# reader UNAVAILABLE. gRPC's transport returns CANCELLED if a call arrives while a server stops.
_CUT_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)

# Further codes after which a stream with a credential is restarted: its credential has changed, or
# its tenant is suspended.
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

_JSON = data_pb2.DATA_ENCODING_JSON

Metadata = tuple[tuple[str, str], ...]

F = TypeVar("F", bound="Follower")


class Follower:
    """Follows a stream until it ends, fails permanently or is closed.

    Attributes:
        log: the events received.
        live: set once the current connection has received a response.
    """

    def __init__(self, name: str, wanted: StreamFilter) -> None:
        self.log = StreamLog(name=name, wanted=wanted)
        self.live = asyncio.Event()
        self._seen: set[EventId] = set()
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start following the stream."""
        self._task = asyncio.create_task(self._run(), name=self.log.name)

    @property
    def ended(self) -> bool:
        """True once the follower has stopped."""
        return self._task is not None and self._task.done()

    async def wait_for_events(self, count: int) -> None:
        """Wait until `count` distinct events were received or the follower has stopped."""
        assert self._task is not None
        while len(self._seen) < count and not self._task.done():
            self._grown.clear()
            grown = asyncio.create_task(self._grown.wait())
            await asyncio.wait((grown, self._task), return_when=asyncio.FIRST_COMPLETED)
            grown.cancel()

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception as error:  # noqa: BLE001 - any error must appear in the log
            self.log.failure = f"{type(error).__name__}: {error}"

    async def _follow(self) -> None:
        raise NotImplementedError

    def _add_event(self, shown: ReceivedEvent) -> None:
        self.log.shown.append(shown)
        self._seen.add(shown.name)
        self._grown.set()


StartCall = Callable[["RawFollower", JobServiceStub], Any]


class RawFollower(Follower):
    """Follows a stream without the client library.

    Args:
        stubs: one stub per gateway. After a cut, the follower continues at the next gateway.
        start_call: starts the stream at a gateway, from the end of the log.
        endless: the stream never ends, and silence counts as a cut.
        cut_codes: the codes after which the stream is restarted.

    Attributes:
        cursor, last_seq: the position at which the stream would resume.
        job: the job's id, once a response contains it.
        reading: cleared while the follower must not read.
    """

    def __init__(
        self,
        name: str,
        wanted: StreamFilter,
        *,
        stubs: Sequence[JobServiceStub],
        start_call: StartCall,
        endless: bool,
        cut_codes: Collection[grpc.StatusCode] = _CUT_CODES,
    ) -> None:
        super().__init__(name, wanted)
        self._cut_codes = cut_codes
        self.cursor = ""
        self.last_seq = 0
        self.job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reading = asyncio.Event()
        self.reading.set()
        self._stubs = stubs
        self._start_call = start_call
        self._endless = endless

    async def _follow(self) -> None:
        turn = cuts = 0
        while True:
            self.log.connected.append(time.time())
            call = self._start_call(self, self._stubs[turn])
            try:
                while await self._read(call):
                    cuts = 0
                    await self.reading.wait()
                return
            except aio.AioRpcError as failure:
                code = failure.code()
                self.log.codes.append(code.name)
                if code not in self._cut_codes:
                    self.log.failure = f"{code.name}: {failure.details()}"
                    self.job.cancel()
                    return
            except TimeoutError:
                self.log.codes.append("SILENT")
            finally:
                self.live.clear()
                call.cancel()
            wait = _RESTART_WAITS_S[min(cuts, len(_RESTART_WAITS_S) - 1)]
            cuts += 1
            turn = (turn + 1) % len(self._stubs)
            await asyncio.sleep(random.uniform(wait / 2, wait))

    async def _read(self, call: Any) -> bool:
        """Read a response; return False at the end of the stream."""
        async with asyncio.timeout(_MAX_SILENCE_S if self._endless else None):
            response = await call.read()
        if response is EOF:
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
            self._add_event(ReceivedEvent(connection, event.job_id, event.seq, received, moment))
            self.last_seq = max(self.last_seq, event.seq)
        return True


class ClientFollower(Follower):
    """Follows a stream with the client library, which must resume and yield each event once."""

    def __init__(
        self,
        name: str,
        wanted: StreamFilter,
        events: Callable[[], AsyncGenerator[JobEvent, None] | JobWatch],
    ) -> None:
        super().__init__(name, wanted)
        self._events = events

    async def _follow(self) -> None:
        self.log.connected.append(time.time())
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    moment = event.event_time.timestamp() if event.event_time else 0.0
                    self._add_event(ReceivedEvent(1, event.job_id, event.seq, time.time(), moment))
        except CallError as error:
            self.log.codes.append(error.refusal.code)
            raise


class Watchers:
    """All followers of a trial, over a few channels to the gateways.

    Args:
        targets: addresses of the gateways. The followers start at each of them in turn.
        channels: number of connections to each gateway.
        window: bytes that a gateway may send ahead on a stream without a reader; None for gRPC's
            default.
        metadata: returns the current credential for `follow`, as the metadata of a call. Rejected
            streams are then restarted.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        channels: int = 1,
        window: int | None = None,
        metadata: Callable[[], Metadata] | None = None,
    ) -> None:
        self.followers: list[Follower] = []
        self._metadata = metadata
        options: list[tuple[str, int]] = [*_OPTIONS]
        if window is not None:
            options += [("grpc.http2.lookahead_bytes", window), ("grpc.http2.bdp_probe", 0)]
        self._channels = [
            aio.insecure_channel(target, options=options)
            for _ in range(channels)
            for target in targets
        ]
        self._stubs = [JobServiceStub(channel) for channel in self._channels]
        # One client per gateway, which uses this gateway first.
        self._clients = [
            Client([*targets[turn:], *targets[:turn]], resume_timeout=_RESUME_TIMEOUT_S)
            for turn in range(len(targets))
        ]

    def follow(
        self, name: str, wanted: StreamFilter | None = None, *, cursor: str = ""
    ) -> RawFollower:
        """Follow all jobs that match, from now or from a cursor."""
        wanted = wanted or StreamFilter()
        job_filter = job_service_pb2.JobFilter(
            queues=wanted.queues,
            types=wanted.types,
            states=[
                job_pb2.JobState.Value(f"JOB_STATE_{state.upper()}") for state in wanted.states
            ],
            labels=wanted.labels,
            job_ids=wanted.job_ids,
        )

        def start_call(follower: RawFollower, gateway: JobServiceStub) -> Any:
            return gateway.WatchJobs(
                job_service_pb2.WatchJobsRequest(
                    filter=job_filter, cursor=follower.cursor, data_encoding=_JSON
                ),
                metadata=self._metadata() if self._metadata is not None else None,
            )

        follower = self._follow_raw(name, wanted, start_call, endless=True)
        follower.cursor = cursor
        return follower

    def follow_job(self, job_id: str) -> RawFollower:
        """Follow one job from its first event."""

        def start_call(follower: RawFollower, gateway: JobServiceStub) -> Any:
            return gateway.WatchJob(
                job_service_pb2.WatchJobRequest(
                    job_id=job_id, after_seq=follower.last_seq, data_encoding=_JSON
                )
            )

        return self._follow_raw(
            f"job {job_id}", StreamFilter(job_ids=(job_id,)), start_call, endless=False
        )

    def submit_and_follow(self, spec: job_pb2.JobSpec, request_id: str) -> RawFollower:
        """Submit and follow a job in one call; the follower's `job` is its id."""

        def start_call(follower: RawFollower, gateway: JobServiceStub) -> Any:
            return gateway.SubmitAndWatch(
                job_service_pb2.SubmitAndWatchRequest(
                    job=spec,
                    request_id=request_id,
                    after_seq=follower.last_seq,
                    data_encoding=_JSON,
                )
            )

        # No event can be checked before the job id is known.
        follower = self._follow_raw(
            f"submit {request_id}", StreamFilter(job_ids=("",)), start_call, endless=False
        )
        follower.job.add_done_callback(lambda job: _filter_by_job_id(follower, job))
        return follower

    def follow_with_client(self, name: str, wanted: StreamFilter) -> ClientFollower:
        """Follow all jobs that match with the client library, from now on."""
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
        """Follow one job with the client library, from its first event."""
        client = self._clients[len(self.followers) % len(self._clients)]
        name, wanted = f"client's job {job_id}", StreamFilter(job_ids=(job_id,))
        return self._add(ClientFollower(name, wanted, lambda: client.watch_job(job_id)))

    def _follow_raw(
        self, name: str, wanted: StreamFilter, start_call: StartCall, *, endless: bool
    ) -> RawFollower:
        turn = len(self.followers) % len(self._stubs)
        stubs = [*self._stubs[turn:], *self._stubs[:turn]]
        return self._add(
            RawFollower(
                name,
                wanted,
                stubs=stubs,
                start_call=start_call,
                endless=endless,
                cut_codes=_CUT_CODES if self._metadata is None else (*_CUT_CODES, *_REFUSALS),
            )
        )

    def _add(self, follower: F) -> F:
        self.followers.append(follower)
        follower.start()
        return follower

    @property
    def logs(self) -> list[StreamLog]:
        """The logs of all followers."""
        return [follower.log for follower in self.followers]

    async def wait_until_live(self, *, within: float = 30.0) -> None:
        """Wait until each stream has started.

        Raises:
            TimeoutError: a stream did not start within `within` seconds.
        """
        async with asyncio.timeout(within):
            await asyncio.gather(*(follower.live.wait() for follower in self.followers))

    async def wait_for_events(self, wanted: Callable[[StreamLog], int], *, within: float) -> None:
        """Wait at most `within` seconds until each stream has received all expected events.

        Args:
            wanted: returns the number of events that a stream should receive.
            within: timeout for all streams together, in seconds.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                for follower in self.followers:
                    await follower.wait_for_events(wanted(follower.log))

    async def close(self) -> None:
        """Close all followers, clients and channels."""
        await asyncio.gather(*(follower.close() for follower in self.followers))
        await asyncio.gather(*(client.close() for client in self._clients))
        await asyncio.gather(*(channel.close(None) for channel in self._channels))


def _filter_by_job_id(follower: RawFollower, job: asyncio.Future[str]) -> None:
    if not job.cancelled():
        follower.log.wanted = StreamFilter(job_ids=(job.result(),))
