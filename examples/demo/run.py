"""Submit jobs and follow them, with times measured at the client."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from board import Board
from cases import Case

from headrace import CallError, Client, JobEvent, JobEventType, JobSpec, JobState, Watch
from headrace.handle import Batch


@dataclass
class Times:
    """Monotonic times of one job, in seconds: start of the submit, first event, end."""

    submitted: float
    first: float | None = None
    ended: float | None = None


class Run:
    """One run of the demo.

    Args:
        client: submits and follows the jobs.
        label: the label of all jobs of this run, so that one stream can follow them.
    """

    def __init__(self, *, client: Client, label: str) -> None:
        self._client = client
        self._labels = {"demo": label}
        self.times: dict[str, Times] = {}
        self.states: Counter[JobState] = Counter()
        self.bulk_ids: set[str] = set()
        self.transitions = 0
        self._state_of: dict[str, JobState] = {}

    async def run_all(self, cases: list[Case], bulk: list[JobSpec], board: Board) -> None:
        """Submit all jobs and follow them until they end."""
        by_id: dict[str, Case] = {}
        try:
            await self._submit_and_follow(cases, bulk, by_id, board)
        except* CallError as failures:
            # A single error with its cause is more useful than the group.
            raise failures.exceptions[0] from None
        for job_id, case in by_id.items():
            case.job = await self._client.get(job_id)

    async def _submit_and_follow(
        self, cases: list[Case], bulk: list[JobSpec], by_id: dict[str, Case], board: Board
    ) -> None:
        async with self._client.watch(labels=self._labels) as watch, asyncio.TaskGroup() as group:
            submitted = asyncio.Event()
            group.create_task(self._follow(watch, by_id, board, submitted, len(cases) + len(bulk)))
            for case in cases:
                start = time.monotonic()
                handle = await self._client.submit(
                    case.spec.type,
                    case.spec.payload,
                    priority=case.spec.priority,
                    delay=case.spec.delay,
                    labels=self._labels,
                )
                self._record_submit(handle.id, start)
                by_id[handle.id] = case
                board.add_job(case, handle.id)
            start = time.monotonic()
            batch: Batch = await self._client.submit_many(
                [JobSpec(s.type, s.payload, labels=self._labels) for s in bulk]
            )
            for handle in batch:
                self._record_submit(handle.id, start)
                self.bulk_ids.add(handle.id)
            submitted.set()

    def bulk_problems(self) -> list[str]:
        """Return the unexpected ends of the bulk jobs."""
        ended = Counter(self._state_of.get(job_id) for job_id in self.bulk_ids)
        if ended == {JobState.SUCCEEDED: len(self.bulk_ids)}:
            return []
        return [f"the bulk jobs ended as {dict(ended)}"]

    def _record_submit(self, job_id: str, start: float) -> None:
        times = self.times.setdefault(job_id, Times(start))
        times.submitted = start

    async def _follow(
        self,
        watch: Watch,
        by_id: dict[str, Case],
        board: Board,
        submitted: asyncio.Event,
        total: int,
    ) -> None:
        cancelled: set[str] = set()
        ended: set[str] = set()
        async for event in watch:
            now = time.monotonic()
            # An event can arrive before the response to its submit.
            times = self.times.setdefault(event.job_id, Times(now))
            times.first = times.first or now
            self._count_event(event)
            case = by_id.get(event.job_id)
            board.show_event(event, case)
            if (
                event.type is JobEventType.PROGRESSED
                and (case is not None and case.cancel)
                and event.job_id not in cancelled
            ):
                cancelled.add(event.job_id)
                await self._client.cancel(event.job_id)
            if event.state.terminal:
                times.ended = now
                ended.add(event.job_id)
                if len(ended) == total:
                    # The last event can arrive before the response to its submit.
                    await submitted.wait()
                    return

    def _count_event(self, event: JobEvent) -> None:
        self.transitions += 1
        before = self._state_of.get(event.job_id)
        if before is not None:
            self.states[before] -= 1
        self.states[event.state] += 1
        self._state_of[event.job_id] = event.state
