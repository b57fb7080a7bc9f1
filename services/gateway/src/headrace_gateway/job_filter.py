"""Which jobs a watch follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace_core.domain.ids import BatchId, JobId
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
