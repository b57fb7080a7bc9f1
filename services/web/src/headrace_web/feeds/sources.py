"""The sources of feeds: streams and lists of the gateway as steps of a feed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc import aio
from grpc.aio import AioRpcError

from headrace._gateways import Gateway as Connection
from headrace._headers import Metadata as CallMetadata
from headrace._status import call_error
from headrace._stream import Start
from headrace.errors import PermissionDenied
from headrace.v1 import job_pb2, job_service_pb2, monitor_service_pb2, tenant_service_pb2
from headrace_web.feeds.shared import Reader
from headrace_web.gateway import Gateway, Metadata
from headrace_web.rest.documents import document, encode
from headrace_web.rest.operations import method_of
from headrace_web.rest.sse import message

# The least time between two overviews, in nanoseconds: below it, people see no difference.
_OVERVIEW_INTERVAL: Final = Duration(nanos=200_000_000)
# Seconds between two reads of the progress of deletions.
_DELETIONS_INTERVAL_S: Final = 1.0
# Messages that arrive on several streams are decoded and encoded once. These many are kept.
_MAX_OVERVIEWS: Final = 64
_MAX_JOBS: Final = 2_048
# The deadline of a list call, in seconds.
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Whole:
    """A step whose message replaces everything before it.

    Attributes:
        event: the type of the message.
        content: the message of the contract.
    """

    event: str
    content: Message

    @cached_property
    def _encoded(self) -> bytes:
        return message(event=self.event, document=document(self.content))

    def change(self) -> bytes:
        """Return the message."""
        return self._encoded

    snapshot = change


@dataclass(frozen=True)
class Page:
    """A step of a list of jobs: the order of the page, and the rows that changed.

    Attributes:
        jobs: the jobs of the page by id, in order, in protobuf's binary form.
        changed: the jobs that the previous step lacked or had in another form.
        next_page_token: the token of the next page; empty if there is none.
    """

    jobs: Mapping[str, bytes]
    changed: Sequence[bytes]
    next_page_token: str

    def change(self) -> bytes:
        """Return the message with the rows that changed."""
        return self._encode(self.changed)

    def snapshot(self) -> bytes:
        """Return the message with all rows."""
        return self._snapshot

    @cached_property
    def _snapshot(self) -> bytes:
        return self._encode(self.jobs.values())

    def _encode(self, rows: Iterable[bytes]) -> bytes:
        content = {
            "order": list(self.jobs),
            "jobs": [_encoded_job(job) for job in rows],
            "nextPageToken": self.next_page_token,
        }
        return message(event="jobs", document=content)


@lru_cache(_MAX_JOBS)
def _encoded_job(data: bytes) -> msgspec.Raw:
    """Return the document of a job in protobuf's binary form."""
    return msgspec.Raw(encode(document(job_pb2.Job.FromString(data))))


class Tick:
    """A step that only tells other feeds to read again."""

    def change(self) -> bytes:
        """Return one character, because readers wait for messages."""
        return b"."

    snapshot = change


class ReadRate:
    """Limits how often all lists of the web service are read.

    A list is read again after a change, but not before its interval. With many lists, all of which
    change all the time, the intervals grow, so that the reads take a bounded part of a core here
    and at the gateway.

    Args:
        per_second: the maximum number of reads per second of lists that change all the time.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._lists = 0

    def interval(self, least: float) -> float:
        """Return the time between two reads of a list, in seconds; at least `least`."""
        return max(least, self._lists / self._per_second)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a list for the duration of the block."""
        self._lists += 1
        try:
            yield
        finally:
            self._lists -= 1


async def overviews(gateway: Gateway, metadata: Metadata) -> AsyncGenerator[Whole, None]:
    """Yield each overview of the tenant.

    Raises:
        CallError: the gateway rejects the stream.
    """
    request = monitor_service_pb2.WatchOverviewRequest(interval=_OVERVIEW_INTERVAL)
    start = _starts("MonitorService/WatchOverview", request, _overview)
    stream = gateway.follow(metadata=metadata, endless=True)
    try:
        while (response := await stream.next(start)) is not None:
            if response.content.HasField("overview_time"):
                stream.reset_backoff()
                yield response
    finally:
        await stream.aclose()


@lru_cache(_MAX_OVERVIEWS)
def _overview(data: bytes) -> Whole:
    """Return the step of a response; its content is empty for an idle mark."""
    response = monitor_service_pb2.WatchOverviewResponse.FromString(data)
    return Whole("overview", response.overview)


async def changes(
    gateway: Gateway, metadata: Metadata, overview: Reader
) -> AsyncGenerator[Tick, None]:
    """Yield a step whenever jobs may have changed.

    Args:
        gateway: the gateway.
        metadata: the metadata of the calls.
        overview: a reader of the overviews; closed at the end. A principal whose scope has no
            overview follows its jobs instead.

    Raises:
        CallError: the gateway rejects the stream.
    """
    try:
        while True:
            await overview.next()
            yield Tick()
    except PermissionDenied:
        pass
    finally:
        await overview.aclose()
    cursor = ""

    def start(connection: Connection, sent: CallMetadata) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobsRequest(cursor=cursor)
        return _starts("JobService/WatchJobs", request)(connection, sent)

    stream = gateway.follow(metadata=metadata, endless=True)
    try:
        while (response := await stream.next(start)) is not None:
            cursor = response.cursor
            if response.events or response.mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
                stream.reset_backoff()
                yield Tick()
    finally:
        await stream.aclose()


def _starts(
    rpc: str, request: Message, deserializer: Callable[[bytes], Any] | None = None
) -> Start[Any]:
    """Return a function that starts a streaming RPC on a connection.

    Args:
        rpc: the service and the RPC.
        request: the request.
        deserializer: converts the responses; None for the message of the RPC.
    """
    method = method_of(rpc)

    def start(connection: Connection, sent: CallMetadata) -> aio.UnaryStreamCall[Any, Any]:
        multicallable: aio.UnaryStreamMultiCallable[Any, Any] = connection.channel.unary_stream(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=deserializer or method.response_type.FromString,
        )
        return multicallable(request, metadata=sent)

    return start


async def pages_of_jobs(
    gateway: Gateway,
    metadata: Metadata,
    trigger: Reader,
    *,
    matching: str,
    page_size: int,
    interval: float,
    rate: ReadRate,
) -> AsyncGenerator[Page, None]:
    """Yield the first page of the jobs that match a filter, whenever it changes.

    Args:
        gateway: the gateway.
        metadata: the metadata of the calls.
        trigger: has a message whenever a job may have changed; closed at the end.
        matching: the filter.
        page_size: the number of jobs.
        interval: the least time between two reads, in seconds.
        rate: limits the reads of all lists.

    Raises:
        CallError: the gateway rejects a call.
    """
    request = job_service_pb2.ListJobsRequest(filter=matching, page_size=page_size)
    known: Mapping[str, bytes] = {}

    async for response in _lists(
        gateway,
        metadata,
        trigger,
        rpc="JobService/ListJobs",
        request=request,
        interval=interval,
        rate=rate,
    ):
        rows = {job.id: job.SerializeToString(deterministic=True) for job in response.jobs}
        changed = [row for job_id, row in rows.items() if known.get(job_id) != row]
        if changed or list(rows) != list(known) or not known:
            yield Page(rows, changed, response.next_page_token)
        known = rows


async def lists(
    gateway: Gateway,
    metadata: Metadata,
    trigger: Reader,
    *,
    event: str,
    rpc: str,
    request: Message,
    interval: float,
    rate: ReadRate,
    longest: float | None = None,
) -> AsyncGenerator[Whole, None]:
    """Yield the response of a list RPC, whenever it changes; see `pages_of_jobs`.

    Args:
        longest: the longest time between two reads, in seconds, for a list that also changes
            without a trigger; None for no limit.
    """
    last: Message | None = None
    async for response in _lists(
        gateway,
        metadata,
        trigger,
        rpc=rpc,
        request=request,
        interval=interval,
        rate=rate,
        longest=longest,
    ):
        if response != last:
            yield Whole(event, response)
        last = response


async def deletions(gateway: Gateway, metadata: Metadata) -> AsyncGenerator[Whole, None]:
    """Yield the tenants that are being deleted, whenever their progress changes.

    The gateway has no stream of tenants, so their list is read repeatedly while a page shows a
    deletion.

    Raises:
        CallError: the gateway rejects a call.
    """
    last: Message | None = None
    while True:
        deleting = tenant_service_pb2.ListTenantsResponse()
        token = ""
        while True:
            request = tenant_service_pb2.ListTenantsRequest(page_size=1000, page_token=token)
            page = await _read(gateway, metadata, "TenantService/ListTenants", request)
            deleting.tenants.extend(
                tenant
                for tenant in page.tenants
                if tenant.state == tenant_service_pb2.TENANT_STATE_DELETING
            )
            token = page.next_page_token
            if not token:
                break
        if deleting != last:
            yield Whole("tenants", deleting)
        last = deleting
        await asyncio.sleep(_DELETIONS_INTERVAL_S)


async def _lists(
    gateway: Gateway,
    metadata: Metadata,
    trigger: Reader,
    *,
    rpc: str,
    request: Message,
    interval: float,
    rate: ReadRate,
    longest: float | None = None,
) -> AsyncGenerator[Any, None]:
    loop = asyncio.get_running_loop()
    try:
        with rate.reading():
            while True:
                # The trigger comes first, so that no change between the two is missed.
                with suppress(TimeoutError):
                    async with asyncio.timeout(longest):
                        await trigger.next()
                read_time = loop.time()
                yield await _read(gateway, metadata, rpc, request)
                await asyncio.sleep(read_time + rate.interval(interval) - loop.time())
    finally:
        await trigger.aclose()


async def _read(gateway: Gateway, metadata: Metadata, rpc: str, request: Message) -> Any:
    """Call a unary RPC.

    Raises:
        CallError: the gateway rejects the call.
    """
    try:
        return await gateway.call(method_of(rpc), request, metadata=metadata, timeout=_TIMEOUT_S)
    except AioRpcError as error:
        raise call_error(error) from None
