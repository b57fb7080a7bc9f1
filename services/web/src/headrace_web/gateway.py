"""Calls of the gateway's RPCs by their descriptors, without code for each RPC."""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

import headrace.v1
from headrace._gateways import Gateway as _Gateway
from headrace._gateways import Gateways, health_request, parse_targets
from headrace._headers import Headers
from headrace._stream import Stream
from headrace._timing import DEFAULT
from headrace.tls import TLS, resolve_tls

Metadata: TypeAlias = Sequence[tuple[str, str]]

# The health of a server that serves no health is unknown; see HEADRACE_HEALTH.
_ANSWERS: Final = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}
_SERVING: Final = 1
_HEALTH_TIMEOUT_S: Final = 2.0
# Longest wait for a gateway to accept a stream before the next gateway is tried, in seconds.
_ACCEPT_TIMEOUT_S: Final = 5.0


class Method:
    """An RPC of the contract.

    Args:
        descriptor: the descriptor of the RPC.

    Attributes:
        path: `/package.Service/Method`.
        streams: whether the RPC returns a stream.
    """

    def __init__(self, descriptor: MethodDescriptor) -> None:
        self.descriptor = descriptor
        self.path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self.streams: bool = descriptor.server_streaming

    @cached_property
    def request_type(self) -> type[Message]:
        """The class of the request."""
        return GetMessageClass(self.descriptor.input_type)

    @cached_property
    def response_type(self) -> type[Message]:
        """The class of each response."""
        return GetMessageClass(self.descriptor.output_type)


def services() -> list[ServiceDescriptor]:
    """Return the descriptors of all services of `headrace.v1`, by name."""
    package = headrace.v1
    files = [
        importlib.import_module(f"{package.__name__}.{module.name}").DESCRIPTOR
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.endswith("_pb2")
    ]
    found = [service for file in files for service in file.services_by_name.values()]
    return sorted(found, key=lambda service: service.full_name)


METHODS: Final[Mapping[str, Method]] = {
    method.path: method
    for service in services()
    for method in map(Method, service.methods)
    # Neither HTTP/1.1 nor browsers can carry a stream of requests.
    if not method.descriptor.client_streaming
}


class Gateway:
    """The connections to the gateways. One gateway is in use; after a failure, the next one.

    The connections present no client certificate: a gateway would take a call without a credential
    for a call of the web service itself.

    Args:
        targets: the addresses of the gateways, separated by commas; None for HEADRACE_TARGET.
        tls: the certificates of the connections. None: TLS if HEADRACE_TLS or HEADRACE_TLS_CA is
            set.

    Raises:
        OSError: a certificate cannot be read.
        ValueError: a variable is malformed.
    """

    def __init__(
        self, targets: str | Sequence[str] | None = None, tls: TLS | bool | None = None
    ) -> None:
        self._connections = Gateways(
            parse_targets(targets), _tls_of_environment() if tls is None else resolve_tls(tls)
        )

    async def call(
        self,
        method: Method,
        request: Message,
        *,
        metadata: Metadata,
        timeout: float,  # noqa: ASYNC109 - sent to the gateway
    ) -> Any:
        """Call a unary RPC once.

        Args:
            method: the RPC.
            request: the request.
            metadata: the metadata of the call, with its credential.
            timeout: the deadline, in seconds.

        Raises:
            grpc.aio.AioRpcError: the call was rejected or failed.
        """
        gateway = self._connections.current()
        multicallable: aio.UnaryUnaryMultiCallable[Message, Message] = gateway.channel.unary_unary(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=method.response_type.FromString,
        )
        try:
            return await multicallable(request, metadata=tuple(metadata), timeout=timeout)
        except aio.AioRpcError as error:
            self._note(gateway, error)
            raise

    async def stream(
        self,
        method: Method,
        request: Message,
        *,
        metadata: Metadata,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the gateway
    ) -> AsyncGenerator[Any, None]:
        """Yield the responses of a streaming RPC. Closing the iterator cancels the call.

        Args:
            method: the RPC.
            request: the request.
            metadata: the metadata of the call, with its credential.
            timeout: the deadline, in seconds; None for none.

        Raises:
            grpc.aio.AioRpcError: the call was rejected or failed.
        """
        gateway = self._connections.current()
        multicallable: aio.UnaryStreamMultiCallable[Message, Message] = (
            gateway.channel.unary_stream(
                method.path,
                request_serializer=method.request_type.SerializeToString,
                response_deserializer=method.response_type.FromString,
            )
        )
        call = multicallable(request, metadata=tuple(metadata), timeout=timeout)
        try:
            async for response in call:
                yield response
        except aio.AioRpcError as error:
            self._note(gateway, error)
            raise
        finally:
            call.cancel()

    def follow(self, *, metadata: Metadata, endless: bool) -> Stream[Any]:
        """Return a stream that resumes for as long as it is used, at any gateway.

        Args:
            metadata: the metadata of its calls, with the credential.
            endless: whether the stream ends only with an error.
        """
        connections = self._connections
        return Stream(
            gateways=connections,
            endless=endless,
            first_retries=None,
            # A browser gives up after an error, but waits on an open connection.
            resume_timeout=math.inf,
            accept_timeout=_ACCEPT_TIMEOUT_S if len(connections.targets) > 1 else None,
            headers=Headers(others=tuple(metadata)),
            timing=DEFAULT,
        )

    async def check_health(self) -> None:
        """Check that the gateway in use is SERVING.

        Raises:
            grpc.aio.AioRpcError: the gateway cannot be reached.
            RuntimeError: the gateway reports that it is not SERVING.
        """
        gateway = self._connections.current()
        try:
            response = await gateway.health(health_request(""), timeout=_HEALTH_TIMEOUT_S)
        except aio.AioRpcError as error:
            if error.code() in _ANSWERS:
                return
            self._note(gateway, error)
            raise
        if response.status != _SERVING:
            raise RuntimeError("the gateway is not SERVING")

    async def close(self) -> None:
        """Cancel all calls and close the connections."""
        await self._connections.close()

    def _note(self, gateway: _Gateway, error: aio.AioRpcError) -> None:
        """Use the next gateway after a gateway has become unavailable."""
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._connections.switch_from(gateway)


def _tls_of_environment() -> TLS | None:
    # HEADRACE_TLS_CERT is the certificate of the HTTP server, so it does not select TLS.
    if not (os.environ.get("HEADRACE_TLS") or os.environ.get("HEADRACE_TLS_CA")):
        return None
    tls = resolve_tls(None)
    return None if tls is None else TLS(ca=tls.ca)
