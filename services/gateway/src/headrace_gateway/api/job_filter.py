"""Which jobs a watch follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.job import JsonText
from headrace_core.domain.lifecycle import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """A job's event matches when every field that is not empty matches."""

    queues: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    states: frozenset[JobState] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: BatchId | None = None
    job_ids: frozenset[JobId] = frozenset()


def write_filter(job_filter: JobFilter) -> JsonText:
    """A filter as a JSON object; filters that are equal have the same one."""
    fields = msgspec.to_builtins(job_filter, order="deterministic")
    # What is empty is left out: a field that is added later must not change what was stored.
    said = {name: value for name, value in fields.items() if value}
    return msgspec.json.encode(said).decode()


def read_filter(text: JsonText) -> JobFilter:
    """What `write_filter` has written."""
    return msgspec.json.decode(text, type=JobFilter)
