"""Converts between protobuf messages and the values of this library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration as PbDuration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.access import (
    ApiKey,
    CertificateBinding,
    Principal,
    PrincipalKind,
    Role,
    SessionTokens,
    User,
)
from headrace.audit import AuditEvent
from headrace.event import JobEvent, JobEventType
from headrace.job import (
    Duration,
    Job,
    JobError,
    JobOutput,
    JobSpec,
    JobState,
    Omitted,
    Progress,
    RetryPolicy,
    SubmitOutcome,
)
from headrace.job_log import JobLogLine, LogLevel
from headrace.stats import HandlerInfo, QueueStats, Stats, TypeStats
from headrace.subscription import JobFilter, Subscription
from headrace.tenant import Quotas, Tenant, TenantDeletion, TenantState, TenantUsage
from headrace.v1 import (
    access_service_pb2,
    audit_service_pb2,
    data_pb2,
    event_pb2,
    handler_service_pb2,
    job_pb2,
    job_service_pb2,
    session_service_pb2,
    subscription_service_pb2,
    tenant_service_pb2,
    user_service_pb2,
)

JSON: Final = data_pb2.DATA_ENCODING_JSON

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

E = TypeVar("E", JobState, JobEventType, LogLevel, SubmitOutcome, Role, PrincipalKind, TenantState)


def _by_number(wrapper: Any, members: Iterable[E], prefix: str) -> dict[int, E]:
    return {
        wrapper.Value(prefix + member.name): member
        for member in members
        if member.name != "UNKNOWN"
    }


_STATES: Final = _by_number(job_pb2.JobState, JobState, "JOB_STATE_")
_EVENT_TYPES: Final = _by_number(event_pb2.JobEventType, JobEventType, "JOB_EVENT_TYPE_")
_LOG_LEVELS: Final = _by_number(job_service_pb2.JobLogLevel, LogLevel, "JOB_LOG_LEVEL_")
_ROLES: Final = _by_number(access_service_pb2.Role, Role, "ROLE_")
_PRINCIPAL_KINDS: Final = _by_number(
    access_service_pb2.PrincipalKind, PrincipalKind, "PRINCIPAL_KIND_"
)
_OUTCOMES: Final = _by_number(job_service_pb2.SubmitOutcome, SubmitOutcome, "SUBMIT_OUTCOME_")
_TENANT_STATES: Final = _by_number(tenant_service_pb2.TenantState, TenantState, "TENANT_STATE_")


# Values to messages.


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_spec(spec: JobSpec) -> job_pb2.JobSpec:
    """Convert a spec to a protobuf message. The delay starts now.

    Raises:
        TypeError: the payload contains a value that JSON cannot represent.
        ValueError: the payload contains NaN, an infinity or a circular reference.
    """
    message = job_pb2.JobSpec()
    write_spec(spec, message)
    return message


def write_spec(spec: JobSpec, message: job_pb2.JobSpec) -> None:
    """Write a spec to an empty message; see `to_spec`."""
    message.type = spec.type
    # Most jobs set few fields, so defaults are not written.
    if spec.queue:
        message.queue = spec.queue
    if spec.priority:
        message.priority = spec.priority
    if spec.labels:
        message.labels.update(spec.labels)
    if spec.payload is not None:
        message.payload.json = _encode(spec.payload).encode()
    schedule_time = spec.schedule_time
    if spec.delay is not None:
        try:
            schedule_time = datetime.now(UTC) + _timedelta(spec.delay, "delay")
        except OverflowError:
            raise ValueError(f"delay is {spec.delay}; it must end before the year 10000") from None
    if schedule_time is not None:
        message.schedule_time.CopyFrom(_to_timestamp(schedule_time))
    if spec.timeout is not None:
        message.timeout.CopyFrom(to_duration(spec.timeout, "timeout"))
    if spec.deadline is not None:
        message.deadline.CopyFrom(_to_timestamp(spec.deadline))
    if spec.retry is not None:
        message.retry_policy.CopyFrom(_to_retry_policy(spec.retry))


def to_filter(
    *,
    queues: Iterable[str],
    types: Iterable[str],
    states: Iterable[JobState | str],
    labels: Mapping[str, str] | None,
    batch_id: str,
    job_ids: Iterable[str],
) -> job_service_pb2.JobFilter:
    """Convert a filter to a protobuf message.

    Raises:
        ValueError: `states` contains a value that is not a job state.
    """
    return job_service_pb2.JobFilter(
        queues=queues,
        types=types,
        states=[job_pb2.JobState.Value(f"JOB_STATE_{JobState(state).name}") for state in states],
        labels=labels or {},
        batch_id=batch_id,
        job_ids=job_ids,
    )


def _to_retry_policy(retry: RetryPolicy) -> job_pb2.RetryPolicy:
    message = job_pb2.RetryPolicy(
        max_attempts=retry.max_attempts,
        multiplier=retry.multiplier,
        jitter=retry.jitter,
        non_retryable_error_types=retry.non_retryable_error_types,
    )
    if retry.initial_backoff is not None:
        message.initial_backoff.CopyFrom(to_duration(retry.initial_backoff, "initial_backoff"))
    if retry.max_backoff is not None:
        message.max_backoff.CopyFrom(to_duration(retry.max_backoff, "max_backoff"))
    return message


def _timedelta(duration: Duration, name: str) -> timedelta:
    if isinstance(duration, timedelta):
        return duration
    try:
        return timedelta(seconds=duration)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{name} is {duration} seconds; it must be finite and less than {timedelta.max.days:,} "
            "days"
        ) from None


def to_duration(duration: Duration, name: str) -> PbDuration:
    message = PbDuration()
    message.FromTimedelta(_timedelta(duration, name))
    return message


def to_role(role: Role | str) -> access_service_pb2.Role.ValueType:
    """Convert a role to a protobuf value.

    Raises:
        ValueError: `role` is not a role.
    """
    known = [known for known in Role if known is not Role.UNKNOWN]
    if role not in known:
        raise ValueError(f"{role!r} is not a role; use one of {', '.join(known)}")
    return access_service_pb2.Role.Value(f"ROLE_{Role(role).name}")


def to_timestamp(time: datetime | None, name: str) -> Timestamp | None:
    """Convert the argument `name`; None if it is None.

    Raises:
        ValueError: the time has no time zone.
    """
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{name} is {time}; it must have a time zone")
    return _to_timestamp(time)


def _to_timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


def to_quotas(quotas: Quotas | None) -> tenant_service_pb2.Quotas | None:
    """Convert quotas to a protobuf message; None stays None."""
    if quotas is None:
        return None
    values = {one.name: getattr(quotas, one.name) for one in fields(quotas)}
    return tenant_service_pb2.Quotas(
        **{name: value for name, value in values.items() if value is not None}
    )


# Messages to values.


def from_job(message: job_pb2.Job) -> Job:
    return Job(
        id=message.id,
        tenant=message.tenant,
        type=message.type,
        queue=message.queue,
        payload=_data(message, "payload"),
        priority=message.priority,
        labels=dict(message.labels),
        timeout=optional_span(message, "timeout"),
        deadline=optional_time(message, "deadline"),
        retry_policy=_retry_policy(message.retry_policy),
        request_id=message.request_id,
        batch_id=message.batch_id,
        state=_STATES.get(message.state, JobState.UNKNOWN),
        attempt=message.attempt,
        retries_used=message.retries_used,
        seq=message.seq,
        progress=_progress(message.progress) if message.HasField("progress") else None,
        result=_data(message, "result"),
        error=_error(message.error) if message.HasField("error") else None,
        worker_id=message.worker_id,
        create_time=optional_time(message, "create_time"),
        schedule_time=optional_time(message, "schedule_time"),
        queue_time=optional_time(message, "queue_time"),
        start_time=optional_time(message, "start_time"),
        cancel_request_time=optional_time(message, "cancel_request_time"),
        end_time=optional_time(message, "end_time"),
        update_time=optional_time(message, "update_time"),
        correlation_id=message.correlation_id,
        unreadable_fields=tuple(message.unreadable_fields),
        submitted_by=message.submitted_by,
        traceparent=message.traceparent,
        tracestate=message.tracestate,
        withheld_fields=tuple(message.withheld_fields),
    )


def from_event(message: event_pb2.JobEvent) -> JobEvent:
    # Most events have no detail, and one check is faster than a check for each field.
    detail = message.WhichOneof("detail")
    # Only events with an error or with output, which may be missing, have withheld fields.
    may_withhold = detail == "error" or message.type == event_pb2.JOB_EVENT_TYPE_OUTPUT
    return JobEvent(
        job_id=message.job_id,
        seq=message.seq,
        type=_EVENT_TYPES.get(message.type, JobEventType.UNKNOWN),
        state=_STATES.get(message.state, JobState.UNKNOWN),
        attempt=message.attempt,
        event_time=optional_time(message, "event_time"),
        job_type=message.job_type,
        queue=message.queue,
        error=_error(message.error) if detail == "error" else None,
        progress=_progress(message.progress) if detail == "progress" else None,
        output=from_data(message.output) if detail == "output" else None,
        schedule_time=optional_time(message, "schedule_time"),
        worker_id=message.worker_id,
        principal=message.principal,
        reason=message.reason,
        withheld_fields=tuple(message.withheld_fields) if may_withhold else (),
    )


def from_output(message: job_service_pb2.JobOutput) -> JobOutput:
    return JobOutput(
        seq=message.seq,
        attempt=message.attempt,
        output_time=optional_time(message, "output_time"),
        output=_data(message, "output"),
    )


def from_log_line(message: job_service_pb2.JobLogLine) -> JobLogLine:
    return JobLogLine(
        position=message.position,
        attempt=message.attempt,
        line=message.line,
        log_time=optional_time(message, "log_time"),
        level=_LOG_LEVELS.get(message.level, LogLevel.UNKNOWN),
        logger=message.logger,
        message=message.message,
        fields=(_data(message, "fields") if message.HasField("fields") else None) or {},
        dropped_lines=message.dropped_lines,
    )


def from_outcome(number: int) -> SubmitOutcome:
    return _OUTCOMES.get(number, SubmitOutcome.UNKNOWN)


def from_stats(message: job_service_pb2.GetStatsResponse) -> Stats:
    return Stats(
        states=from_counts(message.states),
        queues=tuple(
            QueueStats(queue=q.queue, states=from_counts(q.states), age=optional_span(q, "age"))
            for q in message.queues
        ),
        types=tuple(TypeStats(type=t.type, states=from_counts(t.states)) for t in message.types),
        stats_time=optional_time(message, "stats_time"),
    )


def from_handler(message: handler_service_pb2.Handler) -> HandlerInfo:
    return HandlerInfo(
        type=message.type,
        queue=message.queue,
        description=message.description,
        payload_schema=_data(message, "payload_schema"),
        result_schema=_data(message, "result_schema"),
        timeout=optional_span(message, "timeout"),
        retry_policy=_retry_policy(message.retry_policy),
        live_workers=message.live_workers,
    )


def from_subscription(
    message: subscription_service_pb2.Subscription, *, created: bool | None = None
) -> Subscription:
    return Subscription(
        name=message.name,
        filter=JobFilter(
            queues=tuple(message.filter.queues),
            types=tuple(message.filter.types),
            states=tuple(_STATES.get(s, JobState.UNKNOWN) for s in message.filter.states),
            labels=dict(message.filter.labels),
            batch_id=message.filter.batch_id,
            job_ids=tuple(message.filter.job_ids),
        ),
        create_time=optional_time(message, "create_time"),
        ack_time=optional_time(message, "ack_time"),
        consumer=message.consumer,
        lag=optional_span(message, "lag"),
        created=created,
        unreadable_fields=tuple(message.unreadable_fields),
    )


def from_audit_event(message: audit_service_pb2.AuditEvent) -> AuditEvent:
    return AuditEvent(
        seq=message.seq,
        event_time=optional_time(message, "event_time"),
        principal=message.principal,
        principal_tenant=message.principal_tenant,
        kind=access_service_pb2.PrincipalKind.Name(message.kind).removeprefix("PRINCIPAL_KIND_"),
        credential=message.credential,
        address=message.address,
        method=message.method,
        target=message.target,
        denied=message.denied,
        reason=message.reason,
        count=message.count,
        hash=message.hash.hex(),
    )


def from_principal(message: access_service_pb2.Principal, *, acting_tenant: str) -> Principal:
    return Principal(
        name=message.name,
        tenant=message.tenant,
        acting_tenant=acting_tenant,
        kind=_PRINCIPAL_KINDS.get(message.kind, PrincipalKind.UNKNOWN),
        role=_ROLES.get(message.role, Role.UNKNOWN),
        scope=tuple(message.scope),
        rights=tuple(message.rights),
        credential=message.credential,
        expire_time=optional_time(message, "expire_time"),
    )


def from_api_key(message: access_service_pb2.ApiKey) -> ApiKey:
    return ApiKey(
        id=message.id,
        principal=message.principal,
        role=_ROLES.get(message.role, Role.UNKNOWN),
        scope=tuple(message.scope),
        created_by=message.created_by,
        create_time=optional_time(message, "create_time"),
        expire_time=optional_time(message, "expire_time"),
        last_use_time=optional_time(message, "last_use_time"),
        revoke_time=optional_time(message, "revoke_time"),
    )


def from_certificate_binding(message: access_service_pb2.CertificateBinding) -> CertificateBinding:
    return CertificateBinding(
        san=message.san,
        principal=message.principal,
        role=_ROLES.get(message.role, Role.UNKNOWN),
        scope=tuple(message.scope),
        created_by=message.created_by,
        create_time=optional_time(message, "create_time"),
    )


def from_user(message: user_service_pb2.User) -> User:
    return User(
        name=message.name,
        role=_ROLES.get(message.role, Role.UNKNOWN),
        scope=tuple(message.scope),
        disabled=message.disabled,
        created_by=message.created_by,
        create_time=optional_time(message, "create_time"),
        last_login_time=optional_time(message, "last_login_time"),
        password_time=optional_time(message, "password_time"),
    )


def from_tokens(message: session_service_pb2.SessionTokens) -> SessionTokens:
    return SessionTokens(
        access_token=message.access_token,
        access_expire_time=optional_time(message, "access_expire_time"),
        refresh_token=message.refresh_token,
        session_expire_time=optional_time(message, "session_expire_time"),
    )


def from_tenant(message: tenant_service_pb2.Tenant) -> Tenant:
    deletion = None
    if message.HasField("deletion"):
        deletion = TenantDeletion(
            request_time=optional_time(message.deletion, "request_time"),
            jobs=_optional(message.deletion, "jobs"),
            removed_jobs=message.deletion.removed_jobs,
        )
    return Tenant(
        name=message.name,
        state=_TENANT_STATES.get(message.state, TenantState.UNKNOWN),
        create_time=optional_time(message, "create_time"),
        quotas=_quotas(message.quotas),
        ceilings=_quotas(message.ceilings),
        deletion=deletion,
    )


def from_usage(message: tenant_service_pb2.GetUsageResponse) -> TenantUsage:
    return TenantUsage(
        limits=_quotas(message.limits),
        waiting_jobs=message.waiting_jobs,
        running_jobs=message.running_jobs,
        payload_bytes=_optional(message, "payload_bytes"),
        jobs_today=_optional(message, "jobs_today"),
        open_streams=message.open_streams,
    )


def _quotas(message: tenant_service_pb2.Quotas) -> Quotas:
    return Quotas(**{one.name: _optional(message, one.name) for one in fields(Quotas)})


def _optional(message: Any, field: str) -> Any:
    """Return the value of an optional field; None if it is absent."""
    return getattr(message, field) if message.HasField(field) else None


def from_data(message: data_pb2.Data) -> Any:
    """Return a document from either encoding; `Omitted` if the server omitted the document."""
    if message.omitted_bytes:
        return Omitted(message.omitted_bytes)
    if message.WhichOneof("kind") == "value":
        return MessageToDict(message.value)
    return json.loads(message.json) if message.json else None


def _data(message: Any, field: str) -> Any:
    return from_data(getattr(message, field)) if message.HasField(field) else None


def from_counts(counts: Iterable[job_service_pb2.StateCount]) -> Mapping[JobState, int]:
    return {_STATES.get(count.state, JobState.UNKNOWN): count.jobs for count in counts}


def _error(message: job_pb2.JobError) -> JobError:
    return JobError(
        type=message.type,
        message=message.message,
        retryable=message.retryable,
        stack_trace=message.stack_trace,
    )


def _progress(message: job_pb2.JobProgress) -> Progress:
    return Progress(
        fraction=message.fraction,
        message=message.message,
        counters=_data(message, "counters") or {},
    )


def _retry_policy(message: job_pb2.RetryPolicy) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=message.max_attempts if message.HasField("max_attempts") else None,
        initial_backoff=optional_span(message, "initial_backoff"),
        max_backoff=optional_span(message, "max_backoff"),
        multiplier=message.multiplier if message.HasField("multiplier") else None,
        jitter=message.jitter if message.HasField("jitter") else None,
        non_retryable_error_types=tuple(message.non_retryable_error_types) or None,
    )


def optional_time(message: Any, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    # This is three times as fast as Timestamp.ToDatetime.
    timestamp: Timestamp = getattr(message, field)
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def optional_span(message: Any, field: str) -> timedelta | None:
    if not message.HasField(field):
        return None
    span: timedelta = getattr(message, field).ToTimedelta()
    return span
