"""What a worker says of its handlers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace_core.domain.job import DEFAULT_QUEUE, JsonText
from headrace_core.domain.retry import RetryPolicy

# How long an attempt may run when neither the job nor its handler says.
DEFAULT_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSpec:
    """A handler as its worker registers it; the schemas are JSON Schema texts."""

    type: str
    queue: str = DEFAULT_QUEUE
    description: str = ""
    payload_schema: JsonText = "{}"
    result_schema: JsonText = "{}"
    timeout: timedelta = DEFAULT_TIMEOUT
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHandler:
    """A handler and how many live workers run it."""

    spec: HandlerSpec
    live_workers: int
