"""Filters for jobs in ListJobs and for events in streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.lifecycle import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One comparison, `field operator value`.

    Args:
        field: a field of Job, or `labels`.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=`, or `:` (the label exists).
        value: a value of the field's type; ignored for `:`.
        key: the label key, for `labels`.
    """

    field: str
    operator: str
    value: str | int | datetime | JobState | UUID
    key: str = ""


# Comparisons joined by OR.
Clause = tuple[Comparison, ...]

# Clauses joined by AND; an empty query matches every job.
Query = tuple[Clause, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """The jobs of a stream: an event matches if its job matches every field that is not empty."""

    queues: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    states: frozenset[JobState] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: BatchId | None = None
    job_ids: frozenset[JobId] = frozenset()
