"""A filter over jobs: what ListJobs can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from headrace_core.domain.lifecycle import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One comparison, `field operator value`.

    Args:
        field: a field of Job, or `labels`.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=`, or `:` (the label exists).
        value: of the field's type; ignored for `:`.
        key: the label's name, for `labels`.
    """

    field: str
    operator: str
    value: str | int | datetime | JobState | UUID
    key: str = ""


# Comparisons joined by OR.
Clause = tuple[Comparison, ...]

# Clauses joined by AND; an empty query matches every job.
Query = tuple[Clause, ...]
