"""Handlers that return the current context of OpenTelemetry, as instrumented clients send it."""

from __future__ import annotations

from typing import Any

from opentelemetry.propagate import inject

from headrace_worker import Context, Fail, SyncContext, handler
from headrace_worker.api.registry import Registry, registry


def _current_headers() -> dict[str, str]:
    headers: dict[str, str] = {}
    inject(headers)
    return headers


@handler("traced.loop")
async def in_loop(payload: Any, ctx: Context) -> list[dict[str, str]]:
    """Return the headers of the context variable and of the attempt."""
    return [_current_headers(), ctx.trace_headers]


@handler("traced.thread")
def in_thread(payload: Any, ctx: SyncContext) -> list[dict[str, str]]:
    """Return the same from a thread."""
    return [_current_headers(), ctx.trace_headers]


@handler("traced.process", isolation="process")
def in_process(payload: Any, ctx: SyncContext) -> list[dict[str, str]]:
    """Return the same from a process."""
    return [_current_headers(), ctx.trace_headers]


@handler("traced.fail")
async def fail(payload: dict[str, str]) -> None:
    """Fail with an error that contains the payload."""
    raise Fail(f"bad input: {payload['secret']}", type="BadInput")


def traced_handlers() -> Registry:
    """Return the handlers of this module."""
    handlers = Registry()
    for each in registry:
        if each.spec.type.startswith("traced."):
            handlers.add(each)
    return handlers
