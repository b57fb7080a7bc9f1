"""A model of the store without SQL: jobs, workers and keys in memory.

Each method has the effect that the store function with the same name must have. Flags replace
times: a test sets a flag when it moves a time of the row into the past.
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

# If a cancellation is requested, these ends cancel the job.
_CANCELLED_ON_REQUEST = (_E.RETRY_SCHEDULED, _E.INTERRUPTED)
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
    """A worker; `live` until its lease lapses, `registered` until its row is removed."""

    id: WorkerId
    live: bool = True
    registered: bool = True

    def __repr__(self) -> str:
        return f"worker {str(self.id)[-4:]}"


@dataclass(eq=False)
class ModelJob:
    """The expected row and events of a job."""

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
    # The schedule time is in the future.
    later: bool = False
    # The due time, the deadline and the end have been moved into the past.
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
    """A batch, which is removed with its last job."""

    id: BatchId
    content: int
    jobs: list[ModelJob] = field(default_factory=list)

    @property
    def left(self) -> list[ModelJob]:
        return [job for job in self.jobs if not job.pruned]


class LifecycleModel:
    """The model. `taken` counts the transitions, by row of the lifecycle table."""

    def __init__(self, taken: Counter[Row]) -> None:
        self.jobs: list[ModelJob] = []
        self.workers: list[ModelWorker] = []
        # The job of each key with the content of the job, and the batch of each key.
        self._keys: dict[str, tuple[ModelJob, int]] = {}
        self._batch_keys: dict[str, ModelBatch] = {}
        self._taken = taken

    def _transition(self, job: ModelJob, event: EventType, state: JobState) -> None:
        assert allows(job.state, event, state), (
            f"the model breaks the lifecycle: {job} {event} {state}"
        )
        self._taken[job.state, event, state] += 1
        job.state = state
        job.events.append((event, state, job.attempt))

    # Clients.

    def holder(self, key: str | None) -> tuple[ModelJob, int] | None:
        """Return the job of a key and the content of the job, if any."""
        existing = self._keys.get(key or "")
        return None if existing is None or existing[0].pruned else existing

    def batch_holder(self, key: str | None) -> ModelBatch | None:
        """Return the batch of a key, if any."""
        batch = self._batch_keys.get(key or "")
        return batch if batch is not None and batch.left else None

    def submit(
        self, job: ModelJob, *, later: bool, key: str | None = None, content: int = 0
    ) -> ModelJob:
        self._transition(job, _E.SUBMITTED, _S.SCHEDULED if later else _S.QUEUED)
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
        """Cancel a job; return False if it has ended without a cancel request."""
        if job.cancel_requested or job.state is _S.CANCELLED:
            return True
        if job.ended:
            return False
        job.cancel_requested = True
        if job.runs:
            self._transition(job, _E.CANCEL_REQUESTED, _S.RUNNING)
        else:
            self._transition(job, _E.CANCELLED, _S.CANCELLED)
        return True

    def requeue(self, job: ModelJob) -> bool:
        """Requeue a job; return False if it has neither failed nor been cancelled."""
        if job.state not in (_S.FAILED, _S.CANCELLED):
            return False
        job.later = job.later and not job.due and not job.attempt
        self._transition(job, _E.REQUEUED, _S.SCHEDULED if job.later else _S.QUEUED)
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
            worker.registered
            and worker.live
            and not job.pruned
            and job.state is _S.QUEUED
            and attempt == job.attempt + 1
            and not job.overdue
        )

    def claim(self, worker: ModelWorker, job: ModelJob) -> None:
        job.attempt += 1
        job.worker, job.fraction = worker, None
        self._transition(job, _E.STARTED, _S.RUNNING)

    def owns(self, worker: ModelWorker, job: ModelJob, attempt: int) -> bool:
        """Return whether a worker may write; after a lapse, this holds until the recovery."""
        return job.runs and job.attempt == attempt and job.worker is worker

    def end(self, job: ModelJob, event: EventType) -> EventType:
        """End an attempt; return the resulting event."""
        if job.cancel_requested and event in _CANCELLED_ON_REQUEST:
            event = _E.CANCELLED
        job.retries_used += event is _E.RETRY_SCHEDULED
        job.interruptions = job.interruptions + 1 if event is _E.INTERRUPTED else 0
        job.due = False
        self._transition(job, event, _ENDS[event])
        return event

    def report(self, job: ModelJob, *, fraction: float | None, output: str | None) -> None:
        if output is None:
            job.fraction = fraction
            self._transition(job, _E.PROGRESSED, _S.RUNNING)
        else:
            job.outputs.append(output)
            self._transition(job, _E.OUTPUT, _S.RUNNING)

    # The scheduler.

    def promotable(self) -> list[ModelJob]:
        return [
            job for job in self._kept_jobs() if job.due and job.state in (_S.SCHEDULED, _S.RETRYING)
        ]

    def promote(self, job: ModelJob) -> None:
        job.later = False
        self._transition(job, _E.DUE, _S.QUEUED)

    def lost(self) -> list[ModelJob]:
        return [
            job
            for job in self._kept_jobs()
            if job.runs and job.worker and not (job.worker.registered and job.worker.live)
        ]

    def lose(self, job: ModelJob, *, max_losses: int) -> JobState:
        """Recover a job whose worker is lost; return the new state."""
        # The loss of its worker does not reduce the budget of a job that has its own process.
        charged = not needs_own_process(job.losses, job.interruptions)
        spent = charged and job.losses >= max_losses
        job.losses += charged
        if job.cancel_requested:
            self._transition(job, _E.CANCELLED, _S.CANCELLED)
        else:
            self._transition(job, _E.WORKER_LOST, _S.FAILED if spent else _S.QUEUED)
        assert job.state is not None
        return job.state

    def overdue(self, *, grace: bool) -> list[ModelJob]:
        """Return the overdue jobs; if `grace` is set, without the running jobs."""
        return [
            job
            for job in self._kept_jobs()
            if job.overdue and not job.ended and not (grace and job.runs)
        ]

    def expire(self, job: ModelJob) -> None:
        self._transition(job, _E.EXPIRED, _S.FAILED)

    def prunable(self) -> list[ModelJob]:
        return [job for job in self._kept_jobs() if job.ended and job.ended_long_ago]

    def prune(self, jobs: Iterable[ModelJob]) -> None:
        for job in jobs:
            job.pruned = True

    def _kept_jobs(self) -> Sequence[ModelJob]:
        return [job for job in self.jobs if not job.pruned]
