"""Handlers that workers register."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace_core.domain.job import DEFAULT_QUEUE, JsonText
from headrace_core.domain.limits import MAX_DESCRIPTION
from headrace_core.domain.retry import RetryPolicy
from headrace_core.domain.text import clean_line

# A keyword that Headrace adds to payload schemas. It gives the type of a value in pydantic or
# msgspec if JSON Schema cannot describe that type.
VALUE_KEYWORD = "x-headrace-value"

# The timeout of an attempt if neither the job nor its handler sets one.
DEFAULT_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSpec:
    """A handler registered by a worker. The schemas are JSON Schema documents, as JSON text."""

    type: str
    queue: str = DEFAULT_QUEUE
    description: str = ""
    payload_schema: JsonText = "{}"
    result_schema: JsonText = "{}"
    timeout: timedelta = DEFAULT_TIMEOUT
    retry: RetryPolicy = RetryPolicy()

    def __post_init__(self) -> None:
        # The description can be a docstring of any length, with any characters.
        cleaned = clean_line(self.description, MAX_DESCRIPTION)
        object.__setattr__(self, "description", cleaned)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHandler:
    """A handler and the number of live workers that run it."""

    spec: HandlerSpec
    live_workers: int
