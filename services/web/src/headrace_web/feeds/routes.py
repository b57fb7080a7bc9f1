"""The routes of feeds, such as `/feed/overview` and `/feed/jobs`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.v1 import monitor_service_pb2, subscription_service_pb2
from headrace_web.credentials import request_metadata
from headrace_web.feeds.shared import Feeds, Reader, Source
from headrace_web.feeds.sources import (
    ReadRate,
    changes,
    deletions,
    lists,
    overviews,
    pages_of_jobs,
)
from headrace_web.gateway import Gateway, Metadata
from headrace_web.problems import Problem
from headrace_web.rest.sse import open_stream

# The least time between two reads of a list, in seconds.
_JOBS_INTERVAL_S: Final = 0.25
_LIST_INTERVAL_S: Final = 1.0
# The longest time between two reads of the subscriptions, in seconds.
_SUBSCRIPTIONS_INTERVAL_S: Final = 2.0
# The maximum number of reads of all lists per second; a read takes about 1 ms of CPU time.
_READS_PER_SECOND: Final = 40.0
_MAX_PAGE_SIZE: Final = 200
_DEFAULT_PAGE_SIZE: Final = 50
_RETRY_S: Final = 5.0
# The metadata that decides what a caller may see.
_CREDENTIAL: Final = ("authorization", "x-headrace-tenant")


def feed_routes(gateway: Gateway, feeds: Feeds, *, stopping: asyncio.Event) -> list[Route]:
    """Return the routes of all feeds.

    Args:
        gateway: the gateway.
        feeds: the running feeds.
        stopping: set when the service stops; the streams then end.
    """
    endpoints = _Endpoints(gateway, feeds, stopping)
    return [
        Route("/feed/overview", endpoints.overview, methods=["GET"]),
        Route("/feed/jobs", endpoints.jobs, methods=["GET"]),
        Route("/feed/workers", endpoints.workers, methods=["GET"]),
        Route("/feed/deletions", endpoints.deletions, methods=["GET"]),
        Route("/feed/subscriptions", endpoints.subscriptions, methods=["GET"]),
    ]


class _Endpoints:
    def __init__(self, gateway: Gateway, feeds: Feeds, stopping: asyncio.Event) -> None:
        self._gateway = gateway
        self._feeds = feeds
        self._stopping = stopping
        self._rate = ReadRate(_READS_PER_SECOND)

    async def overview(self, request: Request) -> Response:
        return await self._open(request, self._join_overview)

    async def jobs(self, request: Request) -> Response:
        matching = request.query_params.get("filter", "")
        page_size = _page_size(request.query_params.get("pageSize", ""))

        def join(metadata: Metadata) -> Reader:
            return self._join(
                metadata,
                ("jobs", matching, page_size),
                lambda: pages_of_jobs(
                    self._gateway,
                    metadata,
                    self._join_changes(metadata),
                    matching=matching,
                    page_size=page_size,
                    interval=_JOBS_INTERVAL_S,
                    rate=self._rate,
                ),
            )

        return await self._open(request, join)

    async def workers(self, request: Request) -> Response:
        return await self._open_list(
            request,
            event="workers",
            rpc="MonitorService/ListWorkers",
            message=monitor_service_pb2.ListWorkersRequest(page_size=1000),
        )

    async def deletions(self, request: Request) -> Response:
        return await self._open(
            request,
            lambda metadata: self._join(
                metadata, ("deletions",), lambda: deletions(self._gateway, metadata)
            ),
        )

    async def subscriptions(self, request: Request) -> Response:
        return await self._open_list(
            request,
            event="subscriptions",
            rpc="SubscriptionService/ListSubscriptions",
            message=subscription_service_pb2.ListSubscriptionsRequest(page_size=1000),
            # Consumers acknowledge without an event, and the lag grows by itself.
            longest=_SUBSCRIPTIONS_INTERVAL_S,
        )

    async def _open_list(
        self,
        request: Request,
        *,
        event: str,
        rpc: str,
        message: Message,
        longest: float | None = None,
    ) -> Response:
        return await self._open(
            request,
            lambda metadata: self._join(
                metadata,
                (event,),
                lambda: lists(
                    self._gateway,
                    metadata,
                    self._join_changes(metadata),
                    event=event,
                    rpc=rpc,
                    request=message,
                    interval=_LIST_INTERVAL_S,
                    longest=longest,
                    rate=self._rate,
                ),
            ),
        )

    async def _open(self, request: Request, join: Callable[[Metadata], Reader]) -> Response:
        reader = join(request_metadata(request))
        return await open_stream(reader, request=request, stopping=self._stopping)

    def _join_overview(self, metadata: Metadata) -> Reader:
        return self._join(metadata, ("overview",), lambda: overviews(self._gateway, metadata))

    def _join_changes(self, metadata: Metadata) -> Reader:
        return self._join(
            metadata,
            ("changes",),
            lambda: changes(self._gateway, metadata, self._join_overview(metadata)),
        )

    def _join(self, metadata: Metadata, kind: tuple[object, ...], source: Source) -> Reader:
        reader = self._feeds.join((_caller(metadata), *kind), source)
        if reader is None:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many dashboards are open; try again later",
                reason="UNAVAILABLE",
                retry_after=_RETRY_S,
            )
        return reader


def _caller(metadata: Metadata) -> bytes:
    """Return a digest that is equal for requests with the same credential and tenant."""
    digest = hashlib.sha256()
    for name, value in metadata:
        if name in _CREDENTIAL:
            digest.update(f"{name}:{value}\n".encode())
    return digest.digest()


def _page_size(text: str) -> int:
    if not text:
        return _DEFAULT_PAGE_SIZE
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_PAGE_SIZE:
        description = f"must be a number from 1 to {_MAX_PAGE_SIZE}"
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"pageSize {description}",
            reason="INVALID_ARGUMENT",
            violations=[{"field": "pageSize", "description": description}],
        )
    return int(text)
