"""The link `request id`: one id for each call, in its log lines and its response."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import ClassVar, Final, TypeGuard

import structlog
from google.protobuf.message import Message

from headrace_core.domain.ids import uuid7_bytes
from headrace_core.domain.limits import MAX_REQUEST_ID
from headrace_gateway.calls.exchange import Exchange, Method, Proceed

REQUEST_ID: Final = "x-request-id"

# Ids are generated in batches, because a single generation takes a tenth of the time of an empty
# call.
_BATCH_SIZE: Final = 100
_spare_ids: list[bytes] = []


class RequestIds:
    """Reads the `x-request-id` of a call, or generates one, and sends it back.

    Each log line of the call contains it as `correlation_id`. A unary call and each error return it
    in the trailing metadata; a stream returns it in the initial metadata. A call to a foreign
    service gets a request id only if it fails: probes are frequent, and their protocols do not have
    this header.
    """

    name: ClassVar[str] = "request id"
    needs: ClassVar[tuple[str, ...]] = ()

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that sets and sends the request id and calls `proceed`."""

        def unary(exchange: Exchange) -> Awaitable[Message | None]:
            request_id = identify(exchange)
            exchange.context.set_trailing_metadata(((REQUEST_ID, request_id),))
            return proceed(exchange)

        async def stream(exchange: Exchange) -> Message | None:
            request_id = identify(exchange)
            await exchange.context.send_initial_metadata(((REQUEST_ID, request_id),))
            return await proceed(exchange)

        if method.foreign:
            return proceed
        return stream if method.streams_responses else unary


def identify(exchange: Exchange) -> str:
    """Return the request id of a call; assign one if it has none."""
    if exchange.request_id:
        return exchange.request_id
    request_id: str | bytes = ""
    for key, value in exchange.metadata:
        if key == REQUEST_ID:
            request_id = value
    if not is_request_id(request_id):
        request_id = new_request_id()
    # Each call runs in its own task, with its own context.
    structlog.contextvars.bind_contextvars(correlation_id=request_id)
    exchange.request_id = request_id
    return request_id


def is_request_id(value: str | bytes) -> TypeGuard[str]:
    """Return whether a caller may use a value as a request id."""
    return isinstance(value, str) and 0 < len(value) <= MAX_REQUEST_ID and value.isprintable()


def new_request_id() -> str:
    """Return a request id for a caller that sent none."""
    if not _spare_ids:
        _spare_ids.extend(uuid7_bytes(_BATCH_SIZE))
    digits = _spare_ids.pop().hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
