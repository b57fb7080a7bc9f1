"""gRPC reflection in both of its versions: newer tools use v1, older ones v1alpha.

grpcio-reflection has only v1alpha. The v1 messages differ only in their package name, so one
implementation serves both versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

_OLD_PACKAGE: Final = "grpc.reflection.v1alpha"
_PACKAGE: Final = "grpc.reflection.v1"
_FILE: Final = "grpc/reflection/v1/reflection.proto"
SERVICE_NAME: Final = f"{_PACKAGE}.ServerReflection"


@dataclass(frozen=True, slots=True)
class Reflection:
    """A version of the reflection service.

    Attributes:
        name: the full name of the service.
        descriptor: the descriptor of the service; both versions use the v1alpha descriptor.
        servicer: implements the methods.
    """

    name: str
    descriptor: ServiceDescriptor
    servicer: ReflectionServicer


def reflections(services: Sequence[str]) -> tuple[Reflection, Reflection]:
    """Return both versions of a reflection service that describes `services` and itself.

    Args:
        services: the full names of the services.
    """
    _add_v1_descriptor()
    servicer = ReflectionServicer([*services, reflection.SERVICE_NAME, SERVICE_NAME])
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    return (
        Reflection(reflection.SERVICE_NAME, descriptor, servicer),
        Reflection(SERVICE_NAME, descriptor, servicer),
    )


def enable_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Serve reflection of `services`, and of reflection itself.

    Args:
        server: the server, before its start.
        services: the full names of the services.
    """
    for version in reflections(services):
        method = grpc.stream_stream_rpc_method_handler(
            version.servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        handlers = {"ServerReflectionInfo": method}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(version.name, handlers),)
        )


def _add_v1_descriptor() -> None:
    """Add the v1 descriptor to the pool that reflection reads."""
    pool: Any = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = _FILE, _PACKAGE
        for message in file.message_type:
            for field in filter(lambda field: field.type_name, message.field):
                field.type_name = field.type_name.replace(_OLD_PACKAGE, _PACKAGE)
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace(_OLD_PACKAGE, _PACKAGE)
                method.output_type = method.output_type.replace(_OLD_PACKAGE, _PACKAGE)
        pool.AddSerializedFile(file.SerializeToString())
