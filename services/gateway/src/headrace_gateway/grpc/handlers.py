"""HandlerService, and the health of queues.

`queue/NAME` in grpc.health.v1 is SERVING while the queue is known and a live worker serves it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from headrace.v1 import handler_service_pb2
from headrace_core.domain.limits import is_name
from headrace_core.wake import WakeSubscription
from headrace_gateway.api.handlers import Handlers
from headrace_gateway.api.registrations import Registrations
from headrace_gateway.api.validation import Violations
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.decode import read_encoding
from headrace_gateway.grpc.encode import handler_message
from headrace_gateway.grpc.pages import MessagePage
from headrace_health import Lookup

_QUEUE_PREFIX: Final = "queue/"


class HandlerServicer:
    """Lists the job types that can run now.

    Args:
        handlers: the use cases.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def ListHandlers(  # noqa: N802 - the contract's name
        self, request: handler_service_pb2.ListHandlersRequest, call: Call
    ) -> handler_service_pb2.ListHandlersResponse:
        """List the handlers of live workers, sorted by type."""
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        page = MessagePage(partial(handler_message, encoding=encoding))
        token = await self._handlers.list(
            call, page, size=request.page_size, token=request.page_token, violations=found
        )
        return handler_service_pb2.ListHandlersResponse(
            handlers=page.messages, next_page_token=token
        )


def queue_health(*, registrations: Registrations, wake: WakeSubscription) -> Lookup:
    """Return the health lookup for queues.

    Args:
        registrations: returns the queues.
        wake: receives a wake-up when registrations change; only this lookup may use it.
    """
    return Lookup(prefix=_QUEUE_PREFIX, valid=is_name, read=registrations.queues, wait=wake.wait)
