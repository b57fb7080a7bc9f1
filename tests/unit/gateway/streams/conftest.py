"""A factory of events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import EventType, JobState


@pytest.fixture
def make_event() -> Callable[..., JobEvent]:
    """Return a factory of events with default fields."""

    def make(**fields: Any) -> JobEvent:
        usual: dict[str, Any] = {
            "job_id": JobId(uuid7()),
            "seq": 1,
            "type": EventType.SUBMITTED,
            "state": JobState.QUEUED,
            "attempt": 0,
            "time": datetime(2026, 1, 1, tzinfo=UTC),
            "job_type": "test",
            "queue": "default",
            "labels": {},
            "batch_id": None,
            "tenant": "default",
        }
        return JobEvent(**{**usual, **fields})

    return make
