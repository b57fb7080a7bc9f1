"""Errors like those of the gateway, for fake servers."""

from google.protobuf.any_pb2 import Any as PbAny
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status


async def abort(context, code, message, reason, *, metadata=None, violations=(), retry=None):
    """Abort a call with a google.rpc.Status; `retry` is in milliseconds."""
    details = [ErrorInfo(reason=reason, domain="headrace", metadata=metadata or {})]
    if violations:
        fields = [BadRequest.FieldViolation(field=f, description=d) for f, d in violations]
        details.append(BadRequest(field_violations=fields))
    if retry is not None:
        info = RetryInfo()
        info.retry_delay.FromMilliseconds(retry)
        details.append(info)
    status = Status(code=Code.Value(code.name), message=message)
    for detail in details:
        packed = PbAny()
        packed.Pack(detail)
        status.details.append(packed)
    trailer = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, message, trailer)
