"""What a worker says of its handlers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace_core.domain.job import DEFAULT_QUEUE, JsonText
from headrace_core.domain.limits import MAX_DESCRIPTION
from headrace_core.domain.retry import RetryPolicy
from headrace_core.domain.text import clean_line

# A keyword of payload schemas beside those of JSON Schema: a single value's type in the handler's
# library, for types that JSON Schema cannot describe.
VALUE_KEYWORD = "x-headrace-value"

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

    def __post_init__(self) -> None:
        # A docstring may have any length and any characters.
        cleaned = clean_line(self.description, MAX_DESCRIPTION)
        object.__setattr__(self, "description", cleaned)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHandler:
    """A handler and how many live workers run it."""

    spec: HandlerSpec
    live_workers: int
