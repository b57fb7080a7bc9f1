"""Whose a call is."""

from __future__ import annotations

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_gateway.calls.interceptors import Context


def tenant_of(context: Context) -> str:  # noqa: ARG001 - access control will read it
    """The tenant of a call. Without access control there is one tenant."""
    return DEFAULT_TENANT
