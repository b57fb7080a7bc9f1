"""The link `authenticate`: determines the principal and the tenant of a call."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import ClassVar, Final

from google.protobuf.message import Message

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_gateway.calls.call import Call, Principal
from headrace_gateway.calls.exchange import Exchange, Method, Proceed

_ANONYMOUS: Final = Principal(name="anonymous")


class Authenticate:
    """Creates the Call of an exchange.

    Without access control, all calls have the same principal and tenant.
    """

    name: ClassVar[str] = "authenticate"
    needs: ClassVar[tuple[str, ...]] = ("request id", "errors")

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:  # noqa: ARG002 - every method gets a Call
        """Return a function that creates the Call and calls `proceed`."""

        def identify(exchange: Exchange) -> Awaitable[Message | None]:
            remaining = exchange.context.time_remaining()
            exchange.call = Call(
                correlation_id=exchange.request_id,
                principal=_ANONYMOUS,
                tenant=DEFAULT_TENANT,
                deadline=None if remaining is None else time.monotonic() + remaining,
                metadata=exchange.metadata,
            )
            return proceed(exchange)

        return identify
