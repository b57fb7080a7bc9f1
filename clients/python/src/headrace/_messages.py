"""Messages of other protocols, in a separate descriptor pool.

An application may install any version of the packages that define these messages
(googleapis-common-protos, grpcio-health-checking). The default pool accepts each protobuf message
only once. Therefore this module declares the few fields that the client reads. The
declarations are compatible on the wire and cannot collide with those packages.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_PACKAGE: Final = "headrace.foreign"

# message: field: (number, type, repeated). A type in capitals is a scalar; any other type is a
# message. Enums are declared as INT32 and maps as repeated entries, which are the same on the wire.
_MESSAGES: Final[dict[str, dict[str, tuple[int, str, bool]]]] = {
    # google/protobuf/any.proto, duration.proto
    "Any": {"type_url": (1, "STRING", False), "value": (2, "BYTES", False)},
    "Duration": {"seconds": (1, "INT64", False), "nanos": (2, "INT32", False)},
    # google/rpc/status.proto, error_details.proto
    "Status": {
        "code": (1, "INT32", False),
        "message": (2, "STRING", False),
        "details": (3, "Any", True),
    },
    "MetadataEntry": {"key": (1, "STRING", False), "value": (2, "STRING", False)},
    "ErrorInfo": {
        "reason": (1, "STRING", False),
        "domain": (2, "STRING", False),
        "metadata": (3, "MetadataEntry", True),
    },
    "FieldViolation": {"field": (1, "STRING", False), "description": (2, "STRING", False)},
    "BadRequest": {"field_violations": (1, "FieldViolation", True)},
    "RetryInfo": {"retry_delay": (1, "Duration", False)},
    # grpc/health/v1/health.proto
    "HealthCheckRequest": {"service": (1, "STRING", False)},
    "HealthCheckResponse": {"status": (1, "INT32", False)},
}


def _declare_messages() -> DescriptorPool:
    file = FileDescriptorProto(name="headrace/foreign.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            declared = message.field.add(name=field, number=number)
            declared.label = (
                FieldDescriptorProto.LABEL_REPEATED
                if repeated
                else FieldDescriptorProto.LABEL_OPTIONAL
            )
            if kind.isupper():
                declared.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind}")
            else:
                declared.type = FieldDescriptorProto.TYPE_MESSAGE
                declared.type_name = f".{_PACKAGE}.{kind}"
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool: Final = _declare_messages()


def message_class(name: str) -> Any:
    """Return the class of a message in `_MESSAGES`."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
