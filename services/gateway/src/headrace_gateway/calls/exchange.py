"""Exchanges: a request and its responses while they pass through the chain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from headrace_gateway.calls.call import Call, Metadata

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A service method, as its contract declares it.

    Attributes:
        path: the path, for example `/headrace.v1.JobService/GetJob`.
        request_class: the class of the request message.
        streams_requests: True if a client sends many requests.
        streams_responses: True if the servicer sends many responses.
        foreign: True for a service that gRPC defines (health, reflection). Its servicer takes
            gRPC's context in place of a Call.
    """

    path: str
    request_class: type[Message]
    streams_requests: bool = False
    streams_responses: bool = False
    foreign: bool = False


def short_name(path: str) -> str:
    """Return a path without the package, such as `JobService/GetJob`."""
    return path.rpartition(".")[2]


class Exchange:
    """The state of one request in the chain; each link adds its part.

    Args:
        raw: the serialized request; for a method that streams requests, an iterator of serialized
            requests.
        context: the gRPC context.

    Attributes:
        metadata: the headers of the call.
        request_id: set by the link `request id`; empty before that.
        address: the network address of the caller; set by the link `address`.
        call: set by the link `authenticate`.
        request: the decoded message, or an iterator of messages; set by the link `decode`.
        place: the request field, and its value, that resume the stream after the last response; set
            by the link `slow readers`.
        write: sends one response of a stream.
        code: the status with which the link `errors` ends the call; OK without an error.
    """

    __slots__ = (
        *("address", "call", "code", "context", "metadata", "place", "raw", "request"),
        *("request_id", "write"),
    )

    call: Call

    def __init__(self, raw: Any, context: Context) -> None:
        self.raw = raw
        self.context = context
        # gRPC copies the metadata on each read.
        self.metadata: Metadata = context.invocation_metadata() or ()  # type: ignore[assignment]
        self.request_id = self.address = ""
        self.code = grpc.StatusCode.OK
        self.place: Callable[[], tuple[str, str]] = _no_place
        self.request: Any = None
        self.write: Callable[[Message], Awaitable[None]] = context.write

    def release(self) -> None:
        """Remove the request, because references to the exchange would keep it in memory."""
        self.raw = self.request = None


def _no_place() -> tuple[str, str]:
    return ("cursor", "")


# The rest of the chain. A unary call returns its response; a stream writes its responses and
# returns None.
Proceed: TypeAlias = Callable[[Exchange], Awaitable[Message | None]]
