"""HandlerService."""

from __future__ import annotations

from headrace.v1 import handler_service_pb2
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_gateway.api.pages import read_handler_page
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.fields import MAX_PAGE_SIZE, Violations, read_encoding, read_page_size
from headrace_gateway.tokens import decode_name_token, encode_name_token


class HandlerServicer:
    """Tells which types of jobs can run now.

    Args:
        database: where workers are registered.
        installation: signs page tokens.
    """

    def __init__(self, *, database: Database, installation: Installation) -> None:
        self._database = database
        self._installation = installation

    async def ListHandlers(  # noqa: N802 - the contract's name
        self, request: handler_service_pb2.ListHandlersRequest, call: Call
    ) -> handler_service_pb2.ListHandlersResponse:
        """A page of the handlers of live workers, in the order of their types."""
        tenant = call.tenant
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        page_size = read_page_size(request.page_size, found, default=MAX_PAGE_SIZE)
        found.check()
        after = decode_name_token(self._installation, tenant, request.page_token, of="handlers")
        handlers, last = await read_handler_page(
            self._database, tenant=tenant, after=after, page_size=page_size, encoding=encoding
        )
        return handler_service_pb2.ListHandlersResponse(
            handlers=handlers,
            next_page_token=(
                encode_name_token(self._installation, tenant, last, of="handlers") if last else ""
            ),
        )
