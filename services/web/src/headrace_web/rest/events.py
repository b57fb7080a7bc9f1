"""The events of jobs as Server-Sent Events, whose ids resume the stream without a gap."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from grpc import aio
from starlette.datastructures import QueryParams

from headrace._gateways import Gateway
from headrace._headers import Metadata
from headrace._stream import Stream
from headrace.v1 import event_pb2, job_pb2, job_service_pb2
from headrace.v1.data_pb2 import DATA_ENCODING_JSON
from headrace_web.problems import Problem
from headrace_web.rest.documents import document
from headrace_web.rest.sse import message

_TYPE_PREFIX: Final = "JOB_EVENT_TYPE_"
_STATE_PREFIX: Final = "JOB_STATE_"
# Separates the cursor of the response before from the event itself.
_SEPARATOR: Final = "~"
# A resumed stream repeats at most one response of a gateway, which has fewer events.
_MAX_REPEATED: Final = 5_000


class JobEvents:
    """The events of one job. The id of a message is the number of its event.

    Args:
        stream: the stream.
        job_id: the job.
        after: the number of the last event received; 0 for the whole history.
    """

    def __init__(self, stream: Stream[Any], *, job_id: str, after: int) -> None:
        self._stream = stream
        self._job_id = job_id
        self._seq = after

    async def next(self) -> bytes | None:
        """Return the next messages; None after the terminal event."""
        response = await self._stream.next(self._start)
        if response is None:
            return None
        events = [event for event in response.events if event.seq > self._seq]
        if not events:
            return b": idle\n\n"
        self._seq = events[-1].seq
        self._stream.reset_backoff()
        return b"".join(event_message(event, id=str(event.seq)) for event in events)

    async def aclose(self) -> None:
        """End the stream."""
        await self._stream.aclose()

    def _start(self, gateway: Gateway, metadata: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobRequest(
            job_id=self._job_id, after_seq=self._seq, data_encoding=DATA_ENCODING_JSON
        )
        return gateway.jobs.WatchJob(request, metadata=metadata)


class JobLogs:
    """The log lines of one job. The id of a message is the position of its line.

    Args:
        stream: the stream.
        job_id: the job.
        after: the position of the last line received; 0 for the whole log.
    """

    def __init__(self, stream: Stream[Any], *, job_id: str, after: int) -> None:
        self._stream = stream
        self._job_id = job_id
        self._position = after

    async def next(self) -> bytes | None:
        """Return the next messages; None after the last line of a job that has ended."""
        while (response := await self._stream.next(self._start)) is not None:
            lines = [line for line in response.lines if line.position > self._position]
            if lines:
                self._position = lines[-1].position
                self._stream.reset_backoff()
                return b"".join(
                    message(event="line", id=str(line.position), document=document(line))
                    for line in lines
                )
        return None

    async def aclose(self) -> None:
        """End the stream."""
        await self._stream.aclose()

    def _start(self, gateway: Gateway, metadata: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobLogsRequest(
            job_id=self._job_id, after_position=self._position, data_encoding=DATA_ENCODING_JSON
        )
        return gateway.jobs.WatchJobLogs(request, metadata=metadata)


class JobsEvents:
    """The events of all jobs that match a filter.

    The id of a message is the cursor after its event. Several events can arrive with one cursor;
    the ids of all but the last one are the cursor before them and the event. A stream that resumes
    there skips the events up to that one.

    Args:
        stream: the stream.
        matching: the filter.
        last_event_id: the id of the last message received, or a cursor; empty to start now.

    Raises:
        Problem: the id is malformed.
    """

    def __init__(
        self, stream: Stream[Any], *, matching: job_service_pb2.JobFilter, last_event_id: str
    ) -> None:
        self._stream = stream
        self._filter = matching
        self._cursor, _, self._skip_until = last_event_id.partition(_SEPARATOR)
        # The skipped events, in case the event to skip to no longer exists.
        self._skipped: list[event_pb2.JobEvent] = []

    async def next(self) -> bytes | None:
        """Return the next messages."""
        response = await self._stream.next(self._start)
        if response is None:
            return None
        before, self._cursor = self._cursor, response.cursor or self._cursor
        events = self._skip(response.events, at_end=bool(response.mark))
        if self._skip_until:
            # The cursor is beyond events that may have to be sent.
            return b": idle\n\n"
        if events:
            self._stream.reset_backoff()
        parts = [
            event_message(event, id=f"{before}{_SEPARATOR}{_name(event)}" if before else "")
            for event in events[:-1]
        ]
        parts += [event_message(event, id=self._cursor) for event in events[-1:]]
        if response.mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
            parts.append(message(event="caught_up", id=self._cursor, document={}))
        elif not parts:
            # No data: the browser stores the id, and dispatches nothing.
            parts.append(b": idle\n" + message(id=self._cursor))
        return b"".join(parts)

    async def aclose(self) -> None:
        """End the stream."""
        await self._stream.aclose()

    def _start(self, gateway: Gateway, metadata: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobsRequest(
            filter=self._filter, cursor=self._cursor, data_encoding=DATA_ENCODING_JSON
        )
        return gateway.jobs.WatchJobs(request, metadata=metadata)

    def _skip(
        self, events: Sequence[event_pb2.JobEvent], *, at_end: bool
    ) -> Sequence[event_pb2.JobEvent]:
        """Return the events that the browser has not received."""
        if not self._skip_until:
            return events
        for place, event in enumerate(events):
            if _name(event) == self._skip_until:
                self._skip_until, self._skipped = "", []
                return events[place + 1 :]
        self._skipped += events
        if at_end or len(self._skipped) > _MAX_REPEATED:
            # The event was removed with its job, so repeat events rather than lose one.
            unknown, self._skip_until, self._skipped = self._skipped, "", []
            return unknown
        return ()


def event_message(event: event_pb2.JobEvent, *, id: str) -> bytes:  # noqa: A002 - the field's name
    """Return the message of an event; its type is that of the event, such as `retry_scheduled`."""
    name = event_pb2.JobEventType.Name(event.type) if event.type in _KNOWN else str(event.type)
    kind = name.removeprefix(_TYPE_PREFIX).lower()
    return message(event=kind, id=id, document=document(event))


def job_filter(parameters: QueryParams) -> job_service_pb2.JobFilter:
    """Return the filter in the query of a URL.

    Raises:
        Problem: a parameter is unknown or malformed.
    """
    matching = job_service_pb2.JobFilter()
    for name, value in parameters.multi_items():
        match name:
            case "queue":
                matching.queues.append(value)
            case "type":
                matching.types.append(value)
            case "state":
                matching.states.append(_state(value))
            case "label":
                key, equals, label = value.partition("=")
                if not equals:
                    raise _bad(name, f"{value!r} must be KEY=VALUE")
                matching.labels[key] = label
            case "batchId":
                matching.batch_id = value
            case "jobId":
                matching.job_ids.append(value)
            case "cursor" | "access_token":
                pass
            case _:
                raise _bad(
                    name,
                    "is not a parameter of this resource; it has batchId, cursor, jobId, label, "
                    "queue, state, type",
                )
    return matching


def _state(value: str) -> job_pb2.JobState.ValueType:
    for name in (value, _STATE_PREFIX + value.upper()):
        if name in job_pb2.JobState.keys():  # noqa: SIM118 - not a dictionary
            return job_pb2.JobState.Value(name)
    states = ", ".join(name.removeprefix(_STATE_PREFIX) for name in job_pb2.JobState.keys()[1:])
    raise _bad("state", f"{value!r} is not a state; use one of {states}")


def _bad(name: str, description: str) -> Problem:
    return Problem(
        HTTPStatus.BAD_REQUEST,
        f"{name}: {description}",
        reason="INVALID_ARGUMENT",
        violations=[{"field": name, "description": description}],
    )


def _name(event: event_pb2.JobEvent) -> str:
    return f"{event.job_id}.{event.seq}"


_KNOWN: Final = frozenset(event_pb2.JobEventType.values())
