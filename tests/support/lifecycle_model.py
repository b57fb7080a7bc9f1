"""What the store has to come to, told without a word of SQL: jobs, workers and keys in memory.

Each method says what a call of the store's function of that name must do, and does it here. Time is
a flag of each row: what has been moved back has passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headrace_core.domain.ids import BatchId, JobId, WorkerId
from headrace_core.domain.lifecycle import TERMINAL, EventType, JobState, allows
from headrace_core.domain.retry import needs_own_process
from support.histories import Row

_E, _S = EventType, JobState

# A retry or an interruption of a job that somebody wants cancelled cancels it.
_GIVES_BACK = (_E.RETRY_SCHEDULED, _E.INTERRUPTED)
_ENDS = {
    _E.SUCCEEDED: _S.SUCCEEDED,
    _E.RETRY_SCHEDULED: _S.RETRYING,
    _E.FAILED: _S.FAILED,
    _E.INTERRUPTED: _S.QUEUED,
    _E.CANCELLED: _S.CANCELLED,
    _E.EXPIRED: _S.FAILED,
}


@dataclass(eq=False)
class ModelWorker:
    """A worker; `live` until its lease is moved back, `there` until its row goes."""

    id: WorkerId
    live: bool = True
    there: bool = True

    def __repr__(self) -> str:
        return f"worker {str(self.id)[-4:]}"


@dataclass(eq=False)
class ModelJob:
    """A job, as its row and its events must be."""

    id: JobId
    batch: ModelBatch | None = None
    has_deadline: bool = False
    state: JobState | None = None
    attempt: int = 0
    retries_used: int = 0
    losses: int = 0
    interruptions: int = 0
    cancel_requested: bool = False
    worker: ModelWorker | None = None
    events: list[tuple[EventType, JobState, int]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    fraction: float | None = None
    # Whether it has a schedule time that has not come.
    later: bool = False
    # Whether its time, its deadline and its retention have been moved into the past.
    due: bool = False
    overdue: bool = False
    ended_long_ago: bool = False
    pruned: bool = False

    def __repr__(self) -> str:
        return f"job {str(self.id)[-4:]} ({self.state}, attempt {self.attempt})"

    @property
    def runs(self) -> bool:
        return self.state is _S.RUNNING and not self.pruned

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL and not self.pruned


@dataclass(eq=False)
class ModelBatch:
    """A batch; it goes with the last of its jobs."""

    id: BatchId
    content: int
    jobs: list[ModelJob] = field(default_factory=list)

    @property
    def left(self) -> list[ModelJob]:
        return [job for job in self.jobs if not job.pruned]


class LifecycleModel:
    """All that there is. `taken` counts the rows of the lifecycle that were taken."""

    def __init__(self, taken: Counter[Row]) -> None:
        self.jobs: list[ModelJob] = []
        self.workers: list[ModelWorker] = []
        # The job that holds a key, with its content; and batches alike.
        self._keys: dict[str, tuple[ModelJob, int]] = {}
        self._batch_keys: dict[str, ModelBatch] = {}
        self._taken = taken

    def _step(self, job: ModelJob, event: EventType, state: JobState) -> None:
        assert allows(job.state, event, state), f"the model itself: {job} {event} {state}"
        self._taken[job.state, event, state] += 1
        job.state = state
        job.events.append((event, state, job.attempt))

    # Clients.

    def holder(self, key: str | None) -> tuple[ModelJob, int] | None:
        """The job that holds a key, and its content."""
        held = self._keys.get(key or "")
        return None if held is None or held[0].pruned else held

    def batch_holder(self, key: str | None) -> ModelBatch | None:
        """The batch that holds a key."""
        batch = self._batch_keys.get(key or "")
        return batch if batch is not None and batch.left else None

    def submit(
        self, job: ModelJob, *, later: bool, key: str | None = None, content: int = 0
    ) -> ModelJob:
        self._step(job, _E.SUBMITTED, _S.SCHEDULED if later else _S.QUEUED)
        job.later = later
        self.jobs.append(job)
        if key is not None:
            self._keys[key] = (job, content)
        return job

    def submit_batch(self, batch: ModelBatch, *, later: bool, key: str | None) -> None:
        for job in batch.jobs:
            self.submit(job, later=later)
        if key is not None:
            self._batch_keys[key] = batch

    def cancel(self, job: ModelJob) -> bool:
        """False: it ended otherwise, and nobody had asked before."""
        if job.cancel_requested or job.state is _S.CANCELLED:
            return True
        if job.ended:
            return False
        job.cancel_requested = True
        if job.runs:
            self._step(job, _E.CANCEL_REQUESTED, _S.RUNNING)
        else:
            self._step(job, _E.CANCELLED, _S.CANCELLED)
        return True

    def requeue(self, job: ModelJob) -> bool:
        """False: it has not failed and was not cancelled."""
        if job.state not in (_S.FAILED, _S.CANCELLED):
            return False
        job.later = job.later and not job.due and not job.attempt
        self._step(job, _E.REQUEUED, _S.SCHEDULED if job.later else _S.QUEUED)
        job.due = False
        job.retries_used = job.losses = job.interruptions = 0
        job.cancel_requested = job.ended_long_ago = False
        job.fraction = None
        job.has_deadline = job.has_deadline and not job.overdue
        job.overdue = False
        return True

    # Workers.

    def may_claim(self, worker: ModelWorker, job: ModelJob, attempt: int) -> bool:
        return (
            worker.there
            and worker.live
            and not job.pruned
            and job.state is _S.QUEUED
            and attempt == job.attempt + 1
            and not job.overdue
        )

    def claim(self, worker: ModelWorker, job: ModelJob) -> None:
        job.attempt += 1
        job.worker, job.fraction = worker, None
        self._step(job, _E.STARTED, _S.RUNNING)

    def owns(self, worker: ModelWorker, job: ModelJob, attempt: int) -> bool:
        """Whether a write of a worker is let through; a lapsed one that nobody swept still is."""
        return job.runs and job.attempt == attempt and job.worker is worker

    def end(self, job: ModelJob, event: EventType) -> EventType:
        """Returns the event that it comes to."""
        if job.cancel_requested and event in _GIVES_BACK:
            event = _E.CANCELLED
        job.retries_used += event is _E.RETRY_SCHEDULED
        job.interruptions = job.interruptions + 1 if event is _E.INTERRUPTED else 0
        job.due = False
        self._step(job, event, _ENDS[event])
        return event

    def report(self, job: ModelJob, *, fraction: float | None, output: str | None) -> None:
        if output is None:
            job.fraction = fraction
            self._step(job, _E.PROGRESSED, _S.RUNNING)
        else:
            job.outputs.append(output)
            self._step(job, _E.OUTPUT, _S.RUNNING)

    # The scheduler.

    def promotable(self) -> list[ModelJob]:
        return [
            job for job in self._there() if job.due and job.state in (_S.SCHEDULED, _S.RETRYING)
        ]

    def promote(self, job: ModelJob) -> None:
        job.later = False
        self._step(job, _E.DUE, _S.QUEUED)

    def lost(self) -> list[ModelJob]:
        return [
            job
            for job in self._there()
            if job.runs and job.worker and not (job.worker.there and job.worker.live)
        ]

    def lose(self, job: ModelJob, *, max_losses: int) -> JobState:
        """Returns the state that it comes to."""
        # Another job had a process of its own.
        charged = not needs_own_process(job.losses, job.interruptions)
        spent = charged and job.losses >= max_losses
        job.losses += charged
        if job.cancel_requested:
            self._step(job, _E.CANCELLED, _S.CANCELLED)
        else:
            self._step(job, _E.WORKER_LOST, _S.FAILED if spent else _S.QUEUED)
        assert job.state is not None
        return job.state

    def overdue(self, *, grace: bool) -> list[ModelJob]:
        """`grace`: those that run are left to their workers."""
        return [
            job
            for job in self._there()
            if job.overdue and not job.ended and not (grace and job.runs)
        ]

    def expire(self, job: ModelJob) -> None:
        self._step(job, _E.EXPIRED, _S.FAILED)

    def prunable(self) -> list[ModelJob]:
        return [job for job in self._there() if job.ended and job.ended_long_ago]

    def prune(self, jobs: Iterable[ModelJob]) -> None:
        for job in jobs:
            job.pruned = True

    def _there(self) -> Sequence[ModelJob]:
        return [job for job in self.jobs if not job.pruned]
