"""JobService and HandlerService of a fake gateway."""

# ruff: noqa: ARG002, N802  # the methods of a service have the names and arguments of its RPCs

from __future__ import annotations

import asyncio
import json
import operator
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from headrace.errors import CallError, Refusal
from headrace.testing._calls import request_id, status_message, trace_context
from headrace.testing._jobs import (
    MAX_EVENTS,
    STATES,
    TERMINAL,
    Jobs,
    check_id,
    invalid,
    state_of,
    without_documents,
)
from headrace.v1 import job_pb2
from headrace.v1 import job_service_pb2 as pb
from headrace.v1.event_pb2 import JobEvent
from headrace.v1.handler_service_pb2 import Handler, ListHandlersRequest, ListHandlersResponse
from headrace.v1.handler_service_pb2_grpc import HandlerServiceServicer
from headrace.v1.job_service_pb2_grpc import JobServiceServicer

T = TypeVar("T")

# The maximum number of entries of SubmitJobs.
MAX_ENTRIES: Final = 256

_IDLE_MARK: Final = pb.WATCH_MARK_IDLE
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
NAME_RULE: Final = "must be 1 to 100 characters of a-z, 0-9, `_`, `-`, `.`"
_COMPARISON: Final = re.compile(
    r"(?:(state|type|queue|request_id|batch_id|labels\.[a-z0-9_.-]+) (=)|(id) (=|>=|<=))"
    r' ("(?:[^"\\]|\\.)*"|[\w.+-]+)'
)
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
}


class JobService(JobServiceServicer):
    """Serves the jobs of a fake gateway.

    Args:
        jobs: the jobs to serve.
        handlers: the handlers by type, as ListHandlers returns them.

    Attributes:
        idle: seconds without events before a stream sends an IDLE mark.
    """

    def __init__(self, jobs: Jobs, handlers: dict[str, Handler]) -> None:
        self.idle = 10.0
        self._jobs = jobs
        self._handlers = handlers

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        self._check_specs(request, {"job": request.job} if request.HasField("job") else {}, context)
        jobs, outcome = self._submit(request, [request.job], context)
        return pb.SubmitJobResponse(job=jobs[0], outcome=outcome)

    async def SubmitJobs(
        self, request: pb.SubmitJobsRequest, context: Any
    ) -> pb.SubmitJobsResponse:
        if not 1 <= len(request.entries) <= MAX_ENTRIES:
            raise invalid(("entries", f"must contain 1 to {MAX_ENTRIES} entries"))
        response = pb.SubmitJobsResponse()
        for entry in request.entries:
            result = response.results.add()
            try:
                job = await self.SubmitJob(entry.request, _EntryContext(entry, context))
                result.response.CopyFrom(job)
            except CallError as error:
                result.error.MergeFromString(status_message(error.refusal).SerializeToString())
        return response

    async def BatchSubmitJobs(
        self, request: pb.BatchSubmitJobsRequest, context: Any
    ) -> pb.BatchSubmitJobsResponse:
        self._check_specs(
            request, {f"jobs[{n}]": job for n, job in enumerate(request.jobs)}, context
        )
        jobs, outcome = self._submit(request, request.jobs, context)
        return pb.BatchSubmitJobsResponse(jobs=jobs, batch_id=jobs[0].batch_id, outcome=outcome)

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        job = self._jobs.find(request.job_id)
        basic = request.view == job_pb2.JOB_VIEW_BASIC
        return pb.GetJobResponse(job=without_documents(job) if basic else job)

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        clauses = _parse_filter(request.filter)
        newest_first = reversed(self._jobs.by_id.values())
        matching = {job.id: job for job in newest_first if _matches(job, clauses)}
        jobs, token = page(request, matching, scope=request.filter)
        if request.view != job_pb2.JOB_VIEW_FULL:
            jobs = [*map(without_documents, jobs)]
        return pb.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        job = self._jobs.cancel(request.job_id, reason=request.reason)
        return pb.CancelJobResponse(job=without_documents(job))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Any) -> pb.RetryJobResponse:
        return pb.RetryJobResponse(job=self._jobs.requeue(request.job_id, reason=request.reason))

    async def ListJobEvents(
        self, request: pb.ListJobEventsRequest, context: Any
    ) -> pb.ListJobEventsResponse:
        found, rest = self._list_events(request, lambda _: True)
        return pb.ListJobEventsResponse(events=found, next_after_seq=found[-1].seq if rest else 0)

    async def ListJobOutput(
        self, request: pb.ListJobOutputRequest, context: Any
    ) -> pb.ListJobOutputResponse:
        found, rest = self._list_events(request, lambda event: event.HasField("output"))
        return pb.ListJobOutputResponse(
            pieces=[
                pb.JobOutput(
                    seq=e.seq, attempt=e.attempt, output_time=e.event_time, output=e.output
                )
                for e in found
            ],
            next_after_seq=found[-1].seq if rest else 0,
        )

    async def ListJobLogs(
        self, request: pb.ListJobLogsRequest, context: Any
    ) -> pb.ListJobLogsResponse:
        lines = self._jobs.lines(request.job_id, _after_position(request))
        size = page_size(request)
        more = len(lines) > size
        return pb.ListJobLogsResponse(
            lines=lines[:size], next_after_position=lines[size - 1].position if more else 0
        )

    async def WatchJobLogs(
        self, request: pb.WatchJobLogsRequest, context: Any
    ) -> AsyncIterator[pb.WatchJobLogsResponse]:
        idle = self.idle_interval(request)
        position = _after_position(request)
        job = self._jobs.find(request.job_id)
        mark = pb.WATCH_MARK_CAUGHT_UP
        while True:
            changed = self._jobs.changed
            ended = state_of(job) in TERMINAL
            for part in chunks(self._jobs.lines(job.id, position), MAX_EVENTS):
                position = part[-1].position
                yield pb.WatchJobLogsResponse(lines=part)
            if ended:
                return
            if mark:
                yield pb.WatchJobLogsResponse(mark=mark)
            mark = pb.WATCH_MARK_UNSPECIFIED
            if not changed.is_set() and not await wait_for_change(idle, changed):
                mark = _IDLE_MARK

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Any
    ) -> AsyncIterator[pb.WatchJobResponse]:
        async for events in self._job_events(request, request.job_id):
            mark = pb.WATCH_MARK_UNSPECIFIED if events else _IDLE_MARK
            yield pb.WatchJobResponse(events=events, mark=mark)
        if request.include_job:
            yield pb.WatchJobResponse(ended_job=self._jobs.find(request.job_id))

    async def SubmitAndWatch(
        self, request: pb.SubmitAndWatchRequest, context: Any
    ) -> AsyncIterator[pb.SubmitAndWatchResponse]:
        self._check_specs(request, {"job": request.job} if request.HasField("job") else {}, context)
        jobs, _ = self._submit(request, [request.job], context)
        yield pb.SubmitAndWatchResponse(job=jobs[0])
        async for events in self._job_events(request, jobs[0].id):
            mark = pb.WATCH_MARK_UNSPECIFIED if events else _IDLE_MARK
            yield pb.SubmitAndWatchResponse(events=events, mark=mark)
        if request.include_job:
            yield pb.SubmitAndWatchResponse(ended_job=self._jobs.find(jobs[0].id))

    async def WatchJobs(
        self, request: pb.WatchJobsRequest, context: Any
    ) -> AsyncIterator[pb.WatchJobsResponse]:
        idle = self.idle_interval(request)
        check_filter(request.filter)
        place = check_cursor(self._jobs, request.cursor)
        mark = pb.WATCH_MARK_CAUGHT_UP
        while True:
            changed = self._jobs.changed
            found = list(self._jobs.matching(place, request.filter))
            # The log may grow while a response is sent.
            place = len(self._jobs.log)
            for part in chunks(found, MAX_EVENTS):
                yield pb.WatchJobsResponse(
                    events=[event for _, event in part], cursor=str(part[-1][0])
                )
            if place < len(self._jobs.log):
                # The mark follows the events that were logged during a send.
                continue
            if mark:
                yield pb.WatchJobsResponse(cursor=str(place), mark=mark)
            mark = pb.WATCH_MARK_UNSPECIFIED
            if place == len(self._jobs.log) and not await wait_for_change(idle, changed):
                mark = _IDLE_MARK

    async def GetStats(self, request: pb.GetStatsRequest, context: Any) -> pb.GetStatsResponse:
        jobs = list(self._jobs.by_id.values())
        response = pb.GetStatsResponse(states=state_counts(jobs))
        response.stats_time.GetCurrentTime()
        for name in sorted({job.queue for job in jobs}):
            inside = [job for job in jobs if job.queue == name]
            queue = response.queues.add(queue=name, states=state_counts(inside))
            if waiting := [job.queue_time for job in inside if state_of(job) == "QUEUED"]:
                oldest = min(time.ToNanoseconds() for time in waiting)
                queue.age.FromNanoseconds(response.stats_time.ToNanoseconds() - oldest)
        for name in sorted({job.type for job in jobs}):
            response.types.add(type=name, states=state_counts(j for j in jobs if j.type == name))
        return response

    def idle_interval(self, request: Any) -> float:
        """Return the interval between IDLE marks that a stream requests, in seconds."""
        if not request.HasField("idle_interval"):
            return self.idle
        seconds = request.idle_interval.ToNanoseconds() / 1e9
        if not 1 <= seconds <= 60:
            raise invalid(("idle_interval", "must be 1 s to 60 s"))
        return float(seconds)

    async def _job_events(self, request: Any, job_id: str) -> AsyncIterator[Sequence[JobEvent]]:
        """Yield lists of events until the terminal event; an empty list is an IDLE mark."""
        idle = self.idle_interval(request)
        seq = _after_seq(request)
        job = self._jobs.find(job_id)
        while True:
            changed = self._jobs.changed
            for part in chunks(self._jobs.events(job_id, seq), MAX_EVENTS):
                seq = part[-1].seq
                yield part
            if state_of(job) in TERMINAL and job.seq <= seq:
                return
            if job.seq <= seq and not await wait_for_change(idle, changed):
                yield ()

    def _list_events(self, request: Any, keep: Any) -> tuple[list[JobEvent], bool]:
        events = [e for e in self._jobs.events(request.job_id, _after_seq(request)) if keep(e)]
        size = page_size(request)
        return events[:size], len(events) > size

    def _check_specs(self, request: Any, specs: dict[str, job_pb2.JobSpec], context: Any) -> None:
        found = []
        if not specs:
            found.append(("job" if hasattr(request, "job") else "jobs", "is required"))
        if len(specs) > 1000:
            found.append(("jobs", "must contain 1 to 1000 jobs"))
        if len(request.request_id) > 128 or not request.request_id.isprintable():
            found.append(("request_id", "must be 1 to 128 printable characters, or empty"))
        if request.use_call_deadline and context.time_remaining() is None:
            found.append(("use_call_deadline", "requires a call with a deadline"))
        for path, spec in specs.items():
            if not is_name(spec.type):
                found.append((f"{path}.type", NAME_RULE))
            if spec.queue and not is_name(spec.queue):
                found.append((f"{path}.queue", NAME_RULE))
            if not -100 <= spec.priority <= 100:
                found.append((f"{path}.priority", "must be -100 to 100"))
            try:
                json.loads(spec.payload.json or b"{}")
            except ValueError as error:
                found.append((f"{path}.payload", str(error)))
        if found:
            raise invalid(*found)

    def _submit(
        self, request: Any, specs: Sequence[job_pb2.JobSpec], context: Any
    ) -> tuple[Sequence[job_pb2.Job], pb.SubmitOutcome.ValueType]:
        batch = isinstance(request, pb.BatchSubmitJobsRequest)
        key = request.request_id
        if key and (found := self._jobs.find_submitted(specs, key, batch=batch)):
            return [*map(without_documents, found)], pb.SUBMIT_OUTCOME_EXISTING
        if getattr(request, "validate_only", False):
            jobs = [job_pb2.Job(type=spec.type, queue=spec.queue or "default") for spec in specs]
            if all(spec.type in self._handlers for spec in specs):
                return jobs, pb.SUBMIT_OUTCOME_WOULD_RUN
            return jobs, pb.SUBMIT_OUTCOME_NO_WORKER
        jobs = self._jobs.submit(
            specs,
            key,
            batch=batch,
            correlation_id=request_id(context),
            trace=trace_context(context),
            time_left=context.time_remaining() if request.use_call_deadline else None,
        )
        return jobs, pb.SUBMIT_OUTCOME_CREATED


class _EntryContext:
    """The context of an entry of SubmitJobs: the call's context with what the entry overrides."""

    def __init__(self, entry: pb.SubmitJobsEntry, context: Any) -> None:
        self._entry = entry
        self._context = context

    def time_remaining(self) -> float | None:
        if self._entry.HasField("timeout"):
            return self._entry.timeout.ToTimedelta().total_seconds()
        left: float | None = self._context.time_remaining()
        return left

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        entry = self._entry
        own = (
            ("x-request-id", entry.correlation_id),
            ("traceparent", entry.traceparent),
            ("tracestate", entry.tracestate),
        )
        return (
            *(self._context.invocation_metadata() or ()),
            *((name, value) for name, value in own if value),
        )


class HandlerService(HandlerServiceServicer):
    """Lists the handlers of a fake gateway."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers

    async def ListHandlers(
        self, request: ListHandlersRequest, context: Any
    ) -> ListHandlersResponse:
        handlers, token = page(request, dict(sorted(self._handlers.items())), default=1000)
        return ListHandlersResponse(handlers=handlers, next_page_token=token)


def check_cursor(jobs: Jobs, cursor: str) -> int:
    """Return the number of events before a cursor; all events for an empty cursor."""
    if not cursor:
        return len(jobs.log)
    if not cursor.isdecimal() or int(cursor) > len(jobs.log):
        raise invalid(("cursor", "must be a cursor of this gateway"), reason="CURSOR_INVALID")
    jobs.check_pruned(int(cursor), str(jobs.pruned))
    return int(cursor)


def check_filter(job_filter: pb.JobFilter) -> None:
    """Raise InvalidRequest if a stream's filter is malformed."""
    if job_filter.batch_id:
        check_id(job_filter.batch_id, "filter.batch_id")
    for number, job_id in enumerate(job_filter.job_ids):
        check_id(job_id, f"filter.job_ids[{number}]")


def is_name(text: str) -> bool:
    """Return whether a text is a valid name of a type, a queue or a subscription."""
    return _NAME.fullmatch(text) is not None


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split a sequence into chunks of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def page_size(request: Any, default: int = 100) -> int:
    """Return the maximum number of items on a page."""
    if request.page_size < 0:
        raise invalid(("page_size", "must not be negative; 0 selects the default"))
    return min(request.page_size, 1000) or default


def page(
    request: Any, items: Mapping[str, T], *, default: int = 100, scope: str = ""
) -> tuple[list[T], str]:
    """Return a page of items, and the token of the next page.

    Args:
        request: contains the page size and the page token.
        items: the items by name, in order.
        default: the page size if the request sets none.
        scope: the filter that the token belongs to.
    """
    size = page_size(request, default)
    prefix = f"{zlib.crc32(scope.encode())}/"
    names = list(items)
    start = 0
    if request.page_token:
        last = request.page_token.removeprefix(prefix)
        if not request.page_token.startswith(prefix) or last not in items:
            rule = "must be the next_page_token of a page with the same filter"
            raise invalid(("page_token", rule), reason="PAGE_TOKEN_INVALID")
        start = names.index(last) + 1
    found = names[start : start + size]
    more = start + size < len(names)
    return [items[name] for name in found], f"{prefix}{found[-1]}" if more else ""


def state_counts(jobs: Iterable[job_pb2.Job]) -> list[pb.StateCount]:
    """Return the number of jobs by state."""
    counts = sorted(Counter(job.state for job in jobs).items())
    return [pb.StateCount(state=state, jobs=count) for state, count in counts]


async def wait_for_change(seconds: float, changed: asyncio.Event) -> bool:
    """Wait until `changed` is set; return False after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return False
    return True


def _after_seq(request: Any) -> int:
    if request.after_seq < 0:
        raise invalid(("after_seq", "must not be negative; 0 is before the first event"))
    return int(request.after_seq)


def _after_position(request: Any) -> int:
    if request.after_position < 0:
        raise invalid(("after_position", "must not be negative; 0 is before the first line"))
    return int(request.after_position)


def _parse_filter(text: str) -> list[set[tuple[str, str, str]]]:
    """Return a filter's clauses; each is a set of alternatives (field, operator, value)."""
    clauses = []
    for clause in text.split(" AND ") if text else ():
        inner = clause[1:-1] if clause.startswith("(") and clause.endswith(")") else clause
        alternatives = set()
        for part in inner.split(" OR "):
            match = _COMPARISON.fullmatch(part)
            if match is None:
                message = f"headrace.testing does not support the filter {part!r}"
                raise CallError(Refusal(code="UNIMPLEMENTED", message=message))
            field, comparison, value = filter(None, match.groups())
            if field == "state" and value not in STATES:
                raise invalid(("filter", f"{value!r} is not a job state"))
            bare = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
            alternatives.add((field, comparison, bare))
        clauses.append(alternatives)
    return clauses


def _matches(job: job_pb2.Job, clauses: Iterable[set[tuple[str, str, str]]]) -> bool:
    return all(
        any(_OPERATORS[sign](_field_value(job, field), value) for field, sign, value in clause)
        for clause in clauses
    )


def _field_value(job: job_pb2.Job, field: str) -> str | None:
    if field.startswith("labels."):
        return dict(job.labels).get(field.removeprefix("labels."))
    return state_of(job) if field == "state" else str(getattr(job, field))
