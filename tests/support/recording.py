"""Contexts for handlers that a test calls directly. They record the reports of the handler."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JsonText, Progress
from headrace_worker import Attempt, Context, SyncContext


@dataclass
class Recording:
    """Records the reports of a handler."""

    progress_reports: list[Progress] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    # The size of the result that `complete_in` reported.
    completed: int | None = None
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    async def progress(self, progress: Progress) -> None:
        self.progress_reports.append(progress)
        self.reported.set()

    async def output(self, chunk: JsonText) -> None:
        self.outputs.append(json.loads(chunk))
        self.reported.set()

    async def prepare_completion(self, size: int) -> None:
        self.complete(size)

    def complete(self, size: int) -> None:
        """Record a completion of a SyncContext."""
        self.completed = size

    def take(self, item: Progress | JsonText) -> None:
        """Record a report of a SyncContext."""
        if isinstance(item, Progress):
            self.progress_reports.append(item)
        else:
            self.outputs.append(json.loads(item))

    @property
    def fractions(self) -> list[float]:
        """The fraction of each progress report."""
        return [progress.fraction for progress in self.progress_reports]


def attempt(number: int = 1, job_id: JobId | None = None, **fields: Any) -> Attempt:
    """Return an attempt of a job; `fields` are optional fields of it."""
    return Attempt(
        job_id=job_id or JobId(uuid7()),
        number=number,
        type="test",
        queue="default",
        tenant="default",
        labels={},
        deadline=datetime.now(UTC) + timedelta(minutes=5),
        ends=time.monotonic() + 300,
        **fields,
    )


def async_context(recording: Recording | None = None, **of: Any) -> Context:
    """Return a context for an `async def` handler; the options are those of `attempt`."""
    return Context(attempt(**of), recording or Recording())


def sync_context(recording: Recording | None = None, **of: Any) -> SyncContext:
    """Return a context for a `def` handler; the options are those of `attempt`."""
    recording = recording or Recording()
    return SyncContext(attempt(**of), recording.take, recording.complete, threading.Event())
