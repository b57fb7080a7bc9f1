"""The jobs of a fake gateway and their events, in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

from google.protobuf.json_format import MessageToDict

from headrace.errors import (
    CallError,
    CursorExpired,
    InvalidRequest,
    JobNotFound,
    Refusal,
    RequestIdConflict,
    StateConflict,
    Violation,
)
from headrace.v1.event_pb2 import JobEvent, JobEventType
from headrace.v1.job_pb2 import Job, JobError, JobProgress, JobSpec, JobState
from headrace.v1.job_service_pb2 import JobFilter, JobLogLevel, JobLogLine

# event: states before the event, states after the event. An event without states before it creates
# the job.
_WAITING: Final = ("SCHEDULED", "QUEUED", "RETRYING")
LIFECYCLE: Final[Mapping[str, tuple[Sequence[str], Sequence[str]]]] = {
    "SUBMITTED": ((), ("QUEUED", "SCHEDULED")),
    "DUE": (("SCHEDULED", "RETRYING"), ("QUEUED",)),
    "STARTED": (("QUEUED",), ("RUNNING",)),
    "PROGRESSED": (("RUNNING",), ("RUNNING",)),
    "OUTPUT": (("RUNNING",), ("RUNNING",)),
    "SUCCEEDED": (("RUNNING",), ("SUCCEEDED",)),
    "RETRY_SCHEDULED": (("RUNNING",), ("RETRYING",)),
    "FAILED": (("RUNNING",), ("FAILED",)),
    "INTERRUPTED": (("RUNNING",), ("QUEUED",)),
    "WORKER_LOST": (("RUNNING",), ("QUEUED", "FAILED")),
    "CANCEL_REQUESTED": (("RUNNING",), ("RUNNING",)),
    "CANCELLED": ((*_WAITING, "RUNNING"), ("CANCELLED",)),
    "EXPIRED": ((*_WAITING, "RUNNING"), ("FAILED",)),
    "REQUEUED": (("FAILED", "CANCELLED"), ("QUEUED", "SCHEDULED")),
}
STATES: Final = frozenset(state for _, targets in LIFECYCLE.values() for state in targets)
TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
MAX_EVENTS: Final = 200
# The positions of lines of an attempt begin after this number times the attempt's number.
_LINES_PER_ATTEMPT: Final = 1_000_000
WORKER: Final = str(UUID(int=1))


def encode(document: Any) -> bytes:
    """Return a document as JSON text."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def invalid(*violations: tuple[str, str], reason: str = "INVALID_ARGUMENT") -> InvalidRequest:
    """Return the error for a malformed request."""
    found = [Violation(*violation) for violation in violations]
    message = "; ".join(f"{v.field}: {v.description}" for v in found)
    return InvalidRequest(
        Refusal(code="INVALID_ARGUMENT", reason=reason, message=message, violations=found)
    )


def check_id(text: str, field: str) -> None:
    """Raise InvalidRequest if a text is not a UUID."""
    try:
        UUID(text)
    except ValueError:
        raise invalid((field, "must be a UUID")) from None


def state_of(job: Job) -> str:
    """Return the name of a job's state."""
    return JobState.Name(job.state).removeprefix("JOB_STATE_")


class Jobs:
    """The jobs, their events, and the log of all events.

    Args:
        on_queued: called after each event that leads to QUEUED.
        on_cancel_request: called with the id of a running job whose cancellation was requested.

    Attributes:
        by_id: the jobs by id, in the order of their submits.
        log: all events in order; a cursor is a number of events.
        pruned: the number of events at the start of the log that count as deleted.
        changed: an event that is set and then replaced after each change.
    """

    def __init__(
        self, on_queued: Callable[[Job], None], on_cancel_request: Callable[[str], None]
    ) -> None:
        self.by_id: dict[str, Job] = {}
        self.log: list[JobEvent] = []
        self.pruned = 0
        self.changed = asyncio.Event()
        self._on_queued = on_queued
        self._on_cancel_request = on_cancel_request
        self._events: dict[str, list[JobEvent]] = {}
        self._lines: dict[str, list[JobLogLine]] = {}
        # The content and the jobs of each used request_id. Batches and single jobs have separate
        # keys.
        self._keys: dict[tuple[bool, str], tuple[list[Any], list[Job]]] = {}

    def notify(self) -> None:
        """Wake all streams."""
        self.changed.set()
        self.changed = asyncio.Event()

    def find(self, job_id: str) -> Job:
        """Return a job, or raise JobNotFound."""
        check_id(job_id, "job_id")
        if job_id not in self.by_id:
            message, metadata = f"job {job_id} does not exist", {"job_id": job_id}
            raise JobNotFound(
                Refusal(
                    code="NOT_FOUND", reason="JOB_NOT_FOUND", message=message, metadata=metadata
                )
            )
        return self.by_id[job_id]

    def events(self, job_id: str, after_seq: int) -> list[JobEvent]:
        """Return the events of a job after a number."""
        return self._events[self.find(job_id).id][after_seq:]

    def check_pruned(self, place: int, oldest: str) -> None:
        """Raise CursorExpired with the cursor `oldest` if events after `place` were deleted."""
        if place < self.pruned:
            message = "events after this cursor were pruned; continue from oldest_cursor"
            raise CursorExpired(
                Refusal(
                    code="OUT_OF_RANGE",
                    reason="CURSOR_EXPIRED",
                    message=message,
                    metadata={"oldest_cursor": oldest},
                )
            )

    def find_submitted(
        self, specs: Sequence[JobSpec], request_id: str, *, batch: bool
    ) -> list[Job] | None:
        """Return the jobs of a used request_id, or raise RequestIdConflict."""
        content, jobs = self._keys.get((batch, request_id), ([], []))
        if not jobs:
            return None
        if content != [_content_key(spec) for spec in specs]:
            kind, existing = ("batch", jobs[0].batch_id) if batch else ("job", jobs[0].id)
            raise RequestIdConflict(
                Refusal(
                    code="ALREADY_EXISTS",
                    reason="REQUEST_ID_CONFLICT",
                    message=f"request_id {request_id!r} was used for {kind} {existing} with other "
                    "content; use a new request_id for new content",
                    metadata={"request_id": request_id, f"{kind}_id": existing},
                )
            )
        return jobs

    def submit(
        self,
        specs: Sequence[JobSpec],
        request_id: str,
        *,
        batch: bool,
        correlation_id: str,
        trace: Mapping[str, str] = MappingProxyType({}),
        time_left: float | None = None,
    ) -> list[Job]:
        """Store jobs, and return them without payloads.

        Args:
            specs: the jobs to store.
            request_id: the idempotency key, or empty.
            batch: whether the jobs are a batch.
            correlation_id: the x-request-id of the call.
            trace: the trace context of the call: `traceparent` and `tracestate`.
            time_left: seconds until the jobs' deadline; overrides the deadlines in the specs.
        """
        batch_id = str(uuid4()) if batch else ""
        jobs = []
        for spec in specs:
            job = Job(
                id=str(uuid4()),
                tenant="default",
                type=spec.type,
                queue=spec.queue or "default",
                priority=spec.priority,
                labels=spec.labels,
                request_id="" if batch else request_id,
                batch_id=batch_id,
                correlation_id=correlation_id,
                traceparent=trace.get("traceparent", ""),
                tracestate=trace.get("tracestate", ""),
            )
            job.payload.json = encode(_payload_of(spec))
            for field in ("timeout", "deadline", "retry_policy", "schedule_time"):
                if spec.HasField(field):
                    getattr(job, field).CopyFrom(getattr(spec, field))
            if time_left is not None:
                job.deadline.FromDatetime(datetime.now(UTC) + timedelta(seconds=time_left))
            job.create_time.GetCurrentTime()
            self.by_id[job.id], self._events[job.id] = job, []
            jobs.append(job)
        if request_id:
            self._keys[batch, request_id] = [_content_key(spec) for spec in specs], jobs
        stored = []
        for job in jobs:
            self._append_event(job, "SUBMITTED", _initial_state(job))
            stored.append(without_documents(job))
        for job in jobs:
            if state_of(job) == "QUEUED":
                self._on_queued(job)
        return stored

    def advance(
        self,
        job_id: str,
        event: str,
        state: str,
        *,
        error: JobError | None = None,
        progress: JobProgress | None = None,
        output: bytes | None = None,
        result: bytes | None = None,
        due: datetime | None = None,
        reason: str = "",
    ) -> Job:
        """Write a transition, and return the resulting job in the BASIC view.

        Raises:
            StateConflict: the lifecycle does not allow the transition.
        """
        job = self.find(job_id)
        sources, targets = LIFECYCLE[event]
        if state_of(job) not in sources or state not in targets:
            raise _state_conflict(job, sources)
        if event == "STARTED":
            job.attempt += 1
            job.worker_id = WORKER
            job.ClearField("progress")
        elif event == "REQUEUED":
            for field in ("progress", "error", "end_time", "cancel_request_time", "retries_used"):
                job.ClearField(field)
        elif event == "RETRY_SCHEDULED":
            job.retries_used += 1
        elif event == "CANCEL_REQUESTED" or (event == "CANCELLED" and state_of(job) in _WAITING):
            job.cancel_request_time.GetCurrentTime()
        elif event == "SUCCEEDED":
            job.ClearField("error")
            job.result.json = result or b"null"
        if due is not None:
            job.schedule_time.FromDatetime(due)
        for name, detail in (("error", error), ("progress", progress)):
            if detail is not None:
                getattr(job, name).CopyFrom(detail)
        self._append_event(
            job, event, state, error=error, progress=progress, output=output, reason=reason
        )
        basic = without_documents(job)
        if state == "QUEUED":
            self._on_queued(job)
        return basic

    def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """Cancel a waiting job, or request the cancellation of a running job."""
        _check_reason(reason)
        job = self.find(job_id)
        state = state_of(job)
        if state == "CANCELLED" or (state == "RUNNING" and job.HasField("cancel_request_time")):
            return job
        if state == "RUNNING":
            self.advance(job_id, "CANCEL_REQUESTED", "RUNNING", reason=reason)
            self._on_cancel_request(job_id)
            return job
        return self.advance(job_id, "CANCELLED", "CANCELLED", reason=reason)

    def requeue(self, job_id: str, *, reason: str = "") -> Job:
        """Move a job to QUEUED, or to SCHEDULED if it never started and is not due."""
        _check_reason(reason)
        job = self.find(job_id)
        later = "QUEUED" if job.attempt else _initial_state(job)
        return self.advance(job_id, "REQUEUED", later, reason=reason)

    def log_line(
        self, job_id: str, message: str, *, level: str, logger: str, fields: bytes | None
    ) -> None:
        """Add a line to the log of a job."""
        job = self.find(job_id)
        if not job.attempt:
            raise ValueError(f"job {job_id} has not started, so its handler cannot log")
        lines = self._lines.setdefault(job_id, [])
        number = sum(line.attempt == job.attempt for line in lines) + 1
        line = JobLogLine(
            position=job.attempt * _LINES_PER_ATTEMPT + number,
            attempt=job.attempt,
            line=number,
            level=JobLogLevel.Value(f"JOB_LOG_LEVEL_{level}"),
            logger=logger,
            message=message,
        )
        line.log_time.GetCurrentTime()
        if fields is not None:
            line.fields.json = fields
        lines.append(line)
        self.notify()

    def lines(self, job_id: str, after_position: int) -> list[JobLogLine]:
        """Return the log lines of a job after a position."""
        lines = self._lines.get(self.find(job_id).id, [])
        return [line for line in lines if line.position > after_position]

    def matching(self, start: int, job_filter: JobFilter) -> Iterator[tuple[int, JobEvent]]:
        """Yield matching events after the first `start` events, each with the cursor after it."""
        for place, event in enumerate(self.log[start:], start=start + 1):
            job = self.by_id[event.job_id]
            if (
                (not job_filter.queues or job.queue in job_filter.queues)
                and (not job_filter.types or job.type in job_filter.types)
                and (not job_filter.states or event.state in job_filter.states)
                and (not job_filter.batch_id or job.batch_id == job_filter.batch_id)
                and (not job_filter.job_ids or job.id in job_filter.job_ids)
                and all(job.labels.get(key) == value for key, value in job_filter.labels.items())
            ):
                yield place, event

    def _append_event(
        self,
        job: Job,
        kind: str,
        state: str,
        *,
        error: JobError | None = None,
        progress: JobProgress | None = None,
        output: bytes | None = None,
        reason: str = "",
    ) -> None:
        job.seq += 1
        job.state = JobState.Value(f"JOB_STATE_{state}")
        event = JobEvent(
            job_id=job.id,
            seq=job.seq,
            type=JobEventType.Value(f"JOB_EVENT_TYPE_{kind}"),
            state=job.state,
            attempt=job.attempt,
            job_type=job.type,
            queue=job.queue,
            error=error,
            progress=progress,
            worker_id=job.worker_id if kind == "STARTED" else "",
            reason=reason,
        )
        if error is not None:
            event.error.ClearField("stack_trace")
        if output is not None:
            event.output.json = output
        if state in {"SCHEDULED", "RETRYING"}:
            event.schedule_time.CopyFrom(job.schedule_time)
        event.event_time.GetCurrentTime()
        times = {"QUEUED": "queue_time", "RUNNING": "start_time"} | dict.fromkeys(
            TERMINAL, "end_time"
        )
        if state in times and (state != "RUNNING" or kind == "STARTED"):
            getattr(job, times[state]).CopyFrom(event.event_time)
        job.update_time.CopyFrom(event.event_time)
        self._events[job.id].append(event)
        self.log.append(event)
        self.notify()


def _state_conflict(job: Job, allowed: Sequence[str]) -> CallError:
    """Return the error for a job in the wrong state."""
    state = state_of(job)
    return StateConflict(
        Refusal(
            code="FAILED_PRECONDITION",
            reason="STATE_CONFLICT",
            message=f"job {job.id} is {state}; it must be {' or '.join(allowed)}",
            metadata={"job_id": job.id, "state": state, "allowed": ", ".join(allowed)},
        )
    )


def without_documents(job: Job) -> Job:
    """Return the BASIC view of a job."""
    basic = Job()
    basic.CopyFrom(job)
    basic.ClearField("payload")
    basic.ClearField("result")
    if basic.HasField("error"):
        basic.error.ClearField("stack_trace")
    return basic


def _initial_state(job: Job) -> str:
    later = job.HasField("schedule_time") and job.schedule_time.ToDatetime(UTC) > datetime.now(UTC)
    return "SCHEDULED" if later else "QUEUED"


def _payload_of(spec: JobSpec) -> Any:
    if spec.payload.HasField("value"):
        return MessageToDict(spec.payload.value)
    return json.loads(spec.payload.json or b"{}")


def _content_key(spec: JobSpec) -> tuple[bytes, Any]:
    rest = JobSpec()
    rest.CopyFrom(spec)
    rest.ClearField("payload")
    return rest.SerializeToString(deterministic=True), _payload_of(spec)


def _check_reason(reason: str) -> None:
    if len(reason) > 500 or not reason.isprintable():
        raise invalid(("reason", "must be 1 to 500 printable characters, or empty"))
