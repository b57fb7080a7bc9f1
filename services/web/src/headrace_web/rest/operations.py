"""The resources under /v1: which RPC each one calls, and where the fields of the request come from.

The routes and the OpenAPI document are both made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from google.protobuf.descriptor import FieldDescriptor

from headrace_web.gateway import METHODS, Method
from headrace_web.rest.documents import DATA

# Fields that the routes set themselves: the form of documents, and the interval of marks.
_OWN_FIELDS: Final = {"data_encoding", "idle_interval", "use_call_deadline"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A unary RPC as a resource.

    Attributes:
        name: the id of the operation in the OpenAPI document.
        http: the method.
        path: the path; `{field}` is the field of the request with this JSON name.
        rpc: `Service/Method`.
        spread: the field of the request whose own fields are fields of the body.
        returns: the field of the response that is the document; empty for the whole response.
    """

    name: str
    http: Literal["GET", "POST"]
    path: str
    rpc: str
    spread: str = ""
    returns: str = ""

    @property
    def method(self) -> Method:
        """The RPC."""
        return method_of(self.rpc)

    def path_fields(self) -> list[FieldDescriptor]:
        """Return the fields in the path."""
        return [field for field in self._fields() if self._is_in_path(field)]

    def other_fields(self) -> list[FieldDescriptor]:
        """Return the fields in the query of a GET, or in the body of a POST."""
        return [
            field
            for field in self._fields()
            if not self._is_in_path(field)
            and field.name not in _OWN_FIELDS
            and field.name != self.spread
        ]

    def _is_in_path(self, field: FieldDescriptor) -> bool:
        return f"{{{field.json_name}}}" in self.path

    def _fields(self) -> list[FieldDescriptor]:
        return list(self.method.descriptor.input_type.fields)


def method_of(rpc: str) -> Method:
    """Return the RPC `Service/Method`."""
    return METHODS[f"/headrace.v1.{rpc}"]


def has_documents(field: FieldDescriptor) -> bool:
    """Return whether a field is a JSON document."""
    return field.message_type is not None and field.message_type.full_name == DATA


OPERATIONS: Final = (
    Operation(
        name="submitJob", http="POST", path="/v1/jobs", rpc="JobService/SubmitJob", spread="job"
    ),
    Operation(
        name="batchSubmitJobs",
        http="POST",
        path="/v1/jobs:batch",
        rpc="JobService/BatchSubmitJobs",
    ),
    Operation(name="listJobs", http="GET", path="/v1/jobs", rpc="JobService/ListJobs"),
    Operation(
        name="cancelJob",
        http="POST",
        path="/v1/jobs/{jobId}:cancel",
        rpc="JobService/CancelJob",
        returns="job",
    ),
    Operation(
        name="retryJob",
        http="POST",
        path="/v1/jobs/{jobId}:retry",
        rpc="JobService/RetryJob",
        returns="job",
    ),
    Operation(
        name="getJob", http="GET", path="/v1/jobs/{jobId}", rpc="JobService/GetJob", returns="job"
    ),
    Operation(
        name="listJobEvents",
        http="GET",
        path="/v1/jobs/{jobId}/events",
        rpc="JobService/ListJobEvents",
    ),
    Operation(
        name="listJobOutput",
        http="GET",
        path="/v1/jobs/{jobId}/output",
        rpc="JobService/ListJobOutput",
    ),
    Operation(
        name="listJobLogs", http="GET", path="/v1/jobs/{jobId}/logs", rpc="JobService/ListJobLogs"
    ),
    Operation(name="getStats", http="GET", path="/v1/stats", rpc="JobService/GetStats"),
    Operation(
        name="listHandlers", http="GET", path="/v1/handlers", rpc="HandlerService/ListHandlers"
    ),
    Operation(name="listWorkers", http="GET", path="/v1/workers", rpc="MonitorService/ListWorkers"),
    Operation(name="listQueues", http="GET", path="/v1/queues", rpc="MonitorService/ListQueues"),
    Operation(name="getHistory", http="GET", path="/v1/history", rpc="MonitorService/GetHistory"),
)
