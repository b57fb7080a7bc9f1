"""Converts domain values to protobuf responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import Final, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import (
    data_pb2,
    event_pb2,
    handler_service_pb2,
    job_pb2,
    job_service_pb2,
    subscription_service_pb2,
)
from headrace_core.domain.handler import LiveHandler
from headrace_core.domain.job import (
    UNREADABLE_TIME,
    Job,
    JobError,
    JobEvent,
    JobSpec,
    JsonText,
    Progress,
)
from headrace_core.domain.job_log import LogLevel, StoredLine
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.query import JobFilter
from headrace_core.domain.retry import RetryOverrides, RetryPolicy
from headrace_core.domain.stats import Stats
from headrace_core.domain.submission import BatchJobs, Repeated
from headrace_core.domain.subscription import Subscription
from headrace_gateway.grpc.data import write_data
from headrace_gateway.grpc.pages import MAX_PAGE_BYTES
from headrace_gateway.streams import Mark

Encoding: TypeAlias = data_pb2.DataEncoding.ValueType

STATES: Final = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}
EVENT_TYPES: Final = {
    event: event_pb2.JobEventType.Value(f"JOB_EVENT_TYPE_{event.name}") for event in EventType
}
WATCH_MARKS: Final = {
    Mark.EVENTS: job_service_pb2.WATCH_MARK_UNSPECIFIED,
    Mark.CAUGHT_UP: job_service_pb2.WATCH_MARK_CAUGHT_UP,
    Mark.IDLE: job_service_pb2.WATCH_MARK_IDLE,
    Mark.STANDBY: job_service_pb2.WATCH_MARK_STANDBY,
}
_LOG_LEVELS: Final = {
    level: job_service_pb2.JobLogLevel.Value(f"JOB_LOG_LEVEL_{level.name}") for level in LogLevel
}

# Stored fields that have other names in the contract.
_FIELD_NAMES: Final = {"due_time": "schedule_time", "retry": "retry_policy"}
# Maximum number of queues in statistics, and maximum number of types. Each entry has up to 220
# bytes: a name of 100 bytes and seven counts.
_MAX_COUNTED_NAMES: Final = 8000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_OVERRIDES = RetryOverrides()


def job_message(job: Job, encoding: Encoding) -> job_pb2.Job:
    """Return a job message; the BASIC view omits payload and result."""
    # The times of a new job are equal, so they are converted once.
    created = timestamp(job.create_time)
    trace = job.trace_context
    return job_pb2.Job(
        id=str(job.id),
        tenant=job.tenant,
        type=job.type,
        queue=job.queue,
        payload=_data(job.payload, encoding),
        priority=job.priority,
        labels=job.labels or None,
        timeout=duration_message(job.timeout),
        deadline=timestamp(job.deadline),
        retry_policy=_retry(job.retry),
        request_id=job.request_id or "",
        batch_id=str(job.batch_id) if job.batch_id else "",
        state=STATES[job.state],
        attempt=job.attempt,
        retries_used=job.retries_used,
        seq=job.seq,
        progress=_progress(job.progress, encoding) if job.progress else None,
        result=_data(job.result, encoding),
        error=_error(job.error) if job.error else None,
        worker_id=str(job.worker_id) if job.worker_id else "",
        create_time=created,
        schedule_time=created if job.due_time == job.create_time else timestamp(job.due_time),
        queue_time=created if job.queue_time == job.create_time else timestamp(job.queue_time),
        start_time=timestamp(job.start_time),
        cancel_request_time=timestamp(job.cancel_request_time),
        end_time=timestamp(job.end_time),
        update_time=created if job.update_time == job.create_time else timestamp(job.update_time),
        correlation_id=job.correlation_id or "",
        traceparent="" if trace is None else trace.traceparent,
        tracestate="" if trace is None else trace.tracestate,
        unreadable_fields=[_FIELD_NAMES.get(name, name) for name in job.unreadable],
        withheld_fields=job.withheld,
        submitted_by=job.submitted_by or "",
    )


def write_batch(
    jobs: BatchJobs, response: job_service_pb2.BatchSubmitJobsResponse, encoding: Encoding
) -> None:
    """Add the jobs of a batch to `response`; clear some fields if they do not fit.

    Jobs that differ only in their ids are converted once.
    """
    messages = jobs.templates.map(lambda job: job_message(job, encoding))
    response.reduced = _reduce(messages)
    for template, job_id in zip(messages, jobs.ids, strict=True):
        message = response.jobs.add()
        message.CopyFrom(template)
        message.id = str(job_id)


def write_specs(
    specs: Repeated[JobSpec], tenant: str, response: job_service_pb2.BatchSubmitJobsResponse
) -> None:
    """Add jobs that were validated but not stored to `response`, as `write_batch` does."""
    messages = specs.map(lambda spec: spec_message(spec, tenant=tenant, request_id=None))
    response.reduced = _reduce(messages)
    response.jobs.extend(messages)


def reduce_results(response: job_service_pb2.SubmitJobsResponse) -> None:
    """If the results are too large for a page, clear `_CLEARED_FIELDS` and set `reduced`."""
    if response.ByteSize() <= MAX_PAGE_BYTES:
        return
    response.reduced = True
    for result in response.results:
        if result.HasField("response"):
            _clear_fields(result.response.job)


# The fields that a reduced job lacks. The submitter or the handler determines their sizes.
_CLEARED_FIELDS: Final = ("labels", "retry_policy", "progress", "error")


def _reduce(messages: Repeated[job_pb2.Job]) -> bool:
    """If the messages are too large for a page, clear `_CLEARED_FIELDS` and return True."""
    if sum(messages.map(job_pb2.Job.ByteSize)) <= MAX_PAGE_BYTES:
        return False
    for message in messages.distinct:
        _clear_fields(message)
    return True


def _clear_fields(message: job_pb2.Job) -> None:
    for field in _CLEARED_FIELDS:
        message.ClearField(field)


def spec_message(spec: JobSpec, *, tenant: str, request_id: str | None) -> job_pb2.Job:
    """Return a job that was validated but not stored, without an id or a state."""
    return job_pb2.Job(
        tenant=tenant,
        type=spec.type,
        queue=spec.queue,
        priority=spec.priority,
        labels=spec.labels or None,
        timeout=duration_message(spec.timeout),
        deadline=timestamp(spec.deadline),
        retry_policy=_retry(spec.retry),
        request_id=request_id or "",
        schedule_time=timestamp(spec.schedule_time),
    )


def event_message(event: JobEvent, encoding: Encoding) -> event_pb2.JobEvent:
    """Return an event message."""
    message = event_pb2.JobEvent()
    _write_event(event, message, encoding)
    return message


def output_message(event: JobEvent, encoding: Encoding) -> job_service_pb2.JobOutput:
    """Return the output message of an event."""
    return job_service_pb2.JobOutput(
        seq=event.seq,
        attempt=event.attempt,
        output_time=timestamp(event.time),
        output=_data(event.output, encoding),
    )


def write_events(
    events: Iterable[JobEvent],
    messages: RepeatedCompositeFieldContainer[event_pb2.JobEvent],
    encoding: Encoding,
) -> None:
    """Add events to `messages`, a response field."""
    add = messages.add
    for event in events:
        _write_event(event, add(), encoding)


def _write_event(event: JobEvent, message: event_pb2.JobEvent, encoding: Encoding) -> None:
    # Keyword arguments and a copy would take more than twice as long.
    message.job_id = str(event.job_id)
    message.seq = event.seq
    message.type = EVENT_TYPES[event.type]
    message.state = STATES[event.state]
    message.attempt = event.attempt
    if event.time is not UNREADABLE_TIME:
        _write_time(event.time, message.event_time)
    message.job_type = event.job_type
    message.queue = event.queue
    if event.error is not None:
        message.error.CopyFrom(_error(event.error))
    if event.progress is not None:
        message.progress.CopyFrom(_progress(event.progress, encoding))
    if event.output is not None:
        message.output.CopyFrom(write_data(event.output, encoding))
    if event.due_time is not None:
        _write_time(event.due_time, message.schedule_time)
    if event.worker_id is not None:
        message.worker_id = str(event.worker_id)
    if event.principal is not None:
        message.principal = event.principal
    if event.reason is not None:
        message.reason = event.reason
    if event.withheld:
        message.withheld_fields.extend(event.withheld)


def log_line_message(stored: StoredLine, encoding: Encoding) -> job_service_pb2.JobLogLine:
    """Return a message of a log line."""
    position, line = stored
    message = job_service_pb2.JobLogLine(
        position=int(position),
        attempt=position.attempt,
        line=position.line,
        level=_LOG_LEVELS[line.level],
        logger=line.logger,
        message=line.message,
        dropped_lines=line.dropped,
    )
    _write_time(line.time, message.log_time)
    if line.fields:
        message.fields.CopyFrom(write_data(line.fields, encoding))
    return message


def handler_message(handler: LiveHandler, encoding: Encoding) -> handler_service_pb2.Handler:
    """Return a handler message."""
    spec = handler.spec
    return handler_service_pb2.Handler(
        type=spec.type,
        queue=spec.queue,
        description=spec.description,
        payload_schema=write_data(spec.payload_schema, encoding),
        result_schema=write_data(spec.result_schema, encoding),
        timeout=duration_message(spec.timeout),
        retry_policy=_retry(spec.retry),
        live_workers=handler.live_workers,
    )


def filter_message(job_filter: JobFilter) -> job_service_pb2.JobFilter:
    """Return a filter message, with its sets sorted."""
    return job_service_pb2.JobFilter(
        queues=sorted(job_filter.queues),
        types=sorted(job_filter.types),
        states=sorted(STATES[state] for state in job_filter.states),
        labels=job_filter.labels,
        batch_id=str(job_filter.batch_id) if job_filter.batch_id else "",
        job_ids=sorted(str(job_id) for job_id in job_filter.job_ids),
    )


def subscription_message(subscription: Subscription) -> subscription_service_pb2.Subscription:
    """Return a subscription message, without unreadable fields."""
    job_filter = subscription.filter
    return subscription_service_pb2.Subscription(
        name=subscription.name,
        filter=None if job_filter is None else filter_message(job_filter),
        create_time=timestamp(subscription.create_time),
        ack_time=timestamp(subscription.ack_time),
        unreadable_fields=subscription.unreadable,
        consumer=subscription.consumer or "",
        lag=duration_message(subscription.lag),
    )


def stats_message(stats: Stats) -> job_service_pb2.GetStatsResponse:
    """Return job counts by state: in total, by queue and by type."""
    by_queue, by_type = stats.by_queue(), stats.by_type()
    queues, types = _largest_names(by_queue), _largest_names(by_type)
    return job_service_pb2.GetStatsResponse(
        states=state_counts(stats.by_state()),
        queues=[
            job_service_pb2.QueueStats(
                queue=queue,
                states=state_counts(by_queue[queue]),
                age=duration_message(stats.age(queue)),
            )
            for queue in queues
        ],
        types=[
            job_service_pb2.TypeStats(type=job_type, states=state_counts(by_type[job_type]))
            for job_type in types
        ],
        stats_time=timestamp(stats.time),
        omitted_queues=len(by_queue) - len(queues),
        omitted_types=len(by_type) - len(types),
    )


def _largest_names(counts: Mapping[str, Mapping[JobState, int]]) -> Sequence[str]:
    """Return the `_MAX_COUNTED_NAMES` names with the most jobs, sorted by name."""
    return sorted(nlargest(_MAX_COUNTED_NAMES, counts, key=lambda name: sum(counts[name].values())))


def state_counts(states: Mapping[JobState, int]) -> Sequence[job_service_pb2.StateCount]:
    """Return the counts of states with jobs, in the order of JobState."""
    return [
        job_service_pb2.StateCount(state=STATES[state], jobs=states[state])
        for state in JobState
        if states.get(state)
    ]


def _data(text: JsonText | None, encoding: Encoding) -> data_pb2.Data | None:
    return None if text is None else write_data(text, encoding)


def timestamp(time: datetime | None) -> Timestamp | None:
    """Return the message of a time; None if the time is missing or unreadable."""
    if time is None or time is UNREADABLE_TIME:
        return None
    message = Timestamp()
    _write_time(time, message)
    return message


def _write_time(time: datetime, timestamp: Timestamp) -> None:
    # Timestamp.FromDatetime takes four times as long.
    since = time - _EPOCH
    timestamp.seconds = since.days * 86_400 + since.seconds
    timestamp.nanos = since.microseconds * 1000


def duration_message(duration: timedelta | None) -> Duration | None:
    """Return the message of a duration; None without one."""
    if duration is None:
        return None
    message = Duration()
    message.FromTimedelta(duration)
    return message


def _error(error: JobError) -> job_pb2.JobError:
    return job_pb2.JobError(
        type=error.type,
        message=error.message,
        retryable=error.retryable,
        stack_trace=error.stack_trace,
    )


def _progress(progress: Progress, encoding: Encoding) -> job_pb2.JobProgress:
    return job_pb2.JobProgress(
        fraction=progress.fraction,
        message=progress.message,
        counters=write_data(progress.counters, encoding),
    )


def _retry(retry: RetryOverrides | RetryPolicy) -> job_pb2.RetryPolicy | None:
    if retry == _NO_OVERRIDES:
        return None
    return job_pb2.RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_backoff=duration_message(retry.initial_backoff),
        max_backoff=duration_message(retry.max_backoff),
        multiplier=retry.multiplier,
        jitter=retry.jitter,
        non_retryable_error_types=retry.non_retryable_error_types,
    )
