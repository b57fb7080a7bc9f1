"""A call: one request, with the principal that sent it and the tenant whose data it can access."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeAlias

from headrace_core.domain.access import Principal, PrincipalKind, Right
from headrace_core.domain.errors import PermissionDenied
from headrace_core.domain.trace import TraceContext, read_trace_context

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The context of one request, for use cases and streams.

    Attributes:
        correlation_id: the request id of the call (`x-request-id`). Each log line of the call and
            each job that it submits contains this id. It is not the `request_id` of a submit, which
            is an idempotency key.
        principal: the caller.
        tenant: the tenant whose data the call reads and changes. A platform principal can name
            another tenant than its own.
        address: the network address of the caller, such as `10.0.0.7`; empty for none.
        method: the method, such as `JobService/GetJob`.
        deadline: the time at which the caller gives up, by `time.monotonic()`; None for no limit.
        span_context: the context of the call's span; None if it has no span.
        metadata: the headers, in order. Keys are lowercase; values of keys that end with `-bin` are
            bytes.
    """

    correlation_id: str
    principal: Principal
    tenant: str
    address: str = ""
    method: str = ""
    deadline: float | None = None
    span_context: TraceContext | None = None
    metadata: Metadata = ()

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def author(self) -> str | None:
        """The name of the principal, for jobs and events; None if access control is off."""
        principal = self.principal
        if principal.kind is PrincipalKind.ANONYMOUS:
            return None
        if principal.tenant == self.tenant:
            return principal.name
        return f"{principal.name} ({principal.tenant})"

    @property
    def trace_context(self) -> TraceContext | None:
        """The context of the call's span, or else of its caller; None if there is no valid one."""
        return self.span_context or read_trace_context(self.metadata)

    def require(self, right: Right) -> None:
        """Check that the principal has a right.

        Raises:
            PermissionDenied: the principal lacks the right.
        """
        if right not in self.principal.rights:
            raise PermissionDenied(right)
