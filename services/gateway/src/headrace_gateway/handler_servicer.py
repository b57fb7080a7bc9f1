"""HandlerService."""

from __future__ import annotations

from headrace.v1 import handler_service_pb2, handler_service_pb2_grpc
from headrace_core.store.database import Database
from headrace_core.store.workers import live_handlers
from headrace_gateway.convert import handler_message
from headrace_gateway.fields import Violations, read_encoding
from headrace_gateway.interceptors import Context
from headrace_gateway.tenant import tenant_of


class HandlerServicer(handler_service_pb2_grpc.HandlerServiceServicer):
    """Tells which types of jobs can run now.

    Args:
        database: where workers are registered.
    """

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def ListHandlers(  # noqa: N802 - the contract's name
        self, request: handler_service_pb2.ListHandlersRequest, context: Context
    ) -> handler_service_pb2.ListHandlersResponse:
        """The handlers of live workers, in the order of their types."""
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        found.check()
        async with self._database.statement() as conn:
            handlers = await live_handlers(conn, tenant=tenant_of(context))
        return handler_service_pb2.ListHandlersResponse(
            handlers=[
                handler_message(handler, encoding)
                for handler in sorted(handlers, key=lambda handler: handler.spec.type)
            ]
        )
