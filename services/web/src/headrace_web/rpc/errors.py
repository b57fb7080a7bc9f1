"""Errors of the gateway as errors of the Connect protocol."""

from __future__ import annotations

from typing import Any, Final

import google.rpc.error_details_pb2  # noqa: F401 - registers the messages of details
import protobuf
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.protobuf import any_pb2, json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError
from protobuf import wkt

from headrace_web.problems import problem_of, refusal_of

_STATUS_TRAILER: Final = "grpc-status-details-bin"
# The codes whose names differ.
_CODES: Final = {"CANCELLED": Code.CANCELED}


def connect_error(error: AioRpcError) -> ConnectError:
    """Return the error of a failed call, with the same code, message and details."""
    details = _details(error)
    code = error.code().name
    # Without details, the message is that of a connection and can contain addresses.
    message = error.details() or ""
    if not details:
        message = problem_of(refusal_of(error)).detail
    return ConnectError(_CODES.get(code) or Code(code.lower()), message, details)


def shutting_down() -> ConnectError:
    """Return the error of a stream that ends because the service stops."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="SHUTTING_DOWN", domain="headrace"))
    message = "the web service is shutting down; resume the stream"
    return ConnectError(Code.UNAVAILABLE, message, [_Detail(packed)])


def _details(error: AioRpcError) -> list[ErrorDetail]:
    # The stubs do not declare the type, which is key-value pairs.
    trailers: Any = error.trailing_metadata()
    packed = next((value for key, value in trailers or () if key == _STATUS_TRAILER), b"")
    try:
        return [_Detail(detail) for detail in status_pb2.Status.FromString(packed).details]
    except DecodeError:
        return []


class _Detail(ErrorDetail):
    """A detail that the response also contains as JSON, for people and scripts."""

    def __init__(self, packed: any_pb2.Any) -> None:
        super().__init__(wkt.Any(type_url=packed.type_url, value=packed.value))
        self._packed = packed

    def value(self, desc_or_registry: Any = None) -> Any:
        """Return the JSON form of the detail; None if its type is unknown."""
        if desc_or_registry is not None:
            return super().value(desc_or_registry)
        try:
            fields = json_format.MessageToDict(self._packed)
        except (TypeError, json_format.Error):
            return None
        del fields["@type"]
        return protobuf.message_from_json_value(wkt.Struct, fields)
