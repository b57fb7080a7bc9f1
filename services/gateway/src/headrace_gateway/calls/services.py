"""Adds services to a gRPC server, with the chain around each method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor

from headrace_gateway.calls.chain import Chain, ChainError
from headrace_gateway.calls.exchange import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, the object that serves it, and the links that apply to it.

    Attributes:
        descriptor: the contract of the service.
        servicer: has a method of the same name for each method of the contract.
        chain: the links around each call.
        foreign: True if the servicer takes gRPC's context in place of a Call.
        name: the full name, if it differs from the one in the contract.
    """

    descriptor: ServiceDescriptor
    servicer: object
    chain: Chain
    foreign: bool = False
    name: str = ""

    @property
    def full_name(self) -> str:
        """The name of the service in method paths."""
        return self.name or str(self.descriptor.full_name)


def add_services(server: grpc.aio.Server, services: Iterable[Service]) -> None:
    """Add services to a server; wrap each method in its links.

    Args:
        server: a server that has not started.
        services: the services to add.

    Raises:
        ChainError: a servicer lacks a method of its contract.
    """
    registry: Any = server
    for service in services:
        handlers = {
            method.name: _method_handler(service, method) for method in service.descriptor.methods
        }
        registry.add_registered_method_handlers(service.full_name, handlers)


def _method_handler(service: Service, descriptor: Any) -> Any:
    behavior = getattr(service.servicer, descriptor.name, None)
    if behavior is None:
        raise ChainError(f"{service.full_name} has no method '{descriptor.name}'")
    method = Method(
        path=f"/{service.full_name}/{descriptor.name}",
        request_class=message_factory.GetMessageClass(descriptor.input_type),
        streams_requests=descriptor.client_streaming,
        streams_responses=descriptor.server_streaming,
        foreign=service.foreign,
    )
    build = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.streams_requests, method.streams_responses]
    # Without a deserializer the chain gets the bytes of a request; the link `decode` decodes them.
    return build(
        service.chain.wrap(method, behavior),
        response_serializer=message_factory.GetMessageClass(
            descriptor.output_type
        ).SerializeToString,
    )
