"""MonitorService of a fake gateway."""

# ruff: noqa: ARG002, N802  # the methods of a service have the names and arguments of its RPCs

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.testing._jobs import WORKER, Jobs, invalid
from headrace.testing._services import NAME_RULE, is_name, page, state_counts, wait_for_change
from headrace.v1 import monitor_service_pb2 as pb
from headrace.v1.event_pb2 import JobEvent, JobEventType
from headrace.v1.handler_service_pb2 import Handler
from headrace.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, Job, JobState
from headrace.v1.job_service_pb2 import WATCH_MARK_IDLE
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceServicer

_SLOTS: Final = 100
_MAX_LISTED_JOBS: Final = 100
_MINUTE: Final = 60.0
# The periods of rates and of errors, in seconds.
_RATE_PERIODS: Final = (10.0, 60.0)
_ERROR_PERIOD: Final = 300.0
_MAX_FAILING_TYPES: Final = 20
# The maximum range of a history in seconds, its default number of points, and the maximum.
_MAX_RANGE: Final = 31 * 86_400.0
_DEFAULT_POINTS: Final = 180
_MAX_POINTS: Final = 1_500
_NAMES: Final = ("submitted", "started", "retried", "succeeded", "failed", "cancelled")
_COUNTED_EVENTS: Final = {
    "SUBMITTED": "submitted",
    "STARTED": "started",
    "RETRY_SCHEDULED": "retried",
}
_COUNTED_STATES: Final = {"SUCCEEDED": "succeeded", "FAILED": "failed", "CANCELLED": "cancelled"}
_REPORTS: Final = frozenset({"PROGRESSED", "OUTPUT", "CANCEL_REQUESTED"})


class _Measured(NamedTuple):
    """An event, the name of its type, and the wait or the run that it ends, in seconds."""

    event: JobEvent
    kind: str
    wait: float | None
    run: float | None


@dataclass
class _Tally:
    """The counts of some events, and their durations in seconds."""

    counts: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)

    def add(self, measured: _Measured) -> None:
        """Add an event."""
        state = JobState.Name(measured.event.state).removeprefix("JOB_STATE_")
        name = _COUNTED_EVENTS.get(measured.kind) or _COUNTED_STATES.get(state)
        if name is not None:
            self.counts[name] += 1
        if measured.wait is not None:
            self.waits.append(measured.wait)
        if measured.run is not None:
            self.runs.append(measured.run)


class MonitorService(MonitorServiceServicer):
    """Shows the workers, queues and rates of a fake gateway.

    One worker runs all types with a handler. It starts when the fake is created.

    Args:
        jobs: the jobs to count.
        handlers: the handlers by type.
        idle_interval: returns the interval between IDLE marks that a stream requests, in seconds.
    """

    def __init__(
        self, jobs: Jobs, handlers: Mapping[str, Handler], idle_interval: Callable[[Any], float]
    ) -> None:
        self._jobs = jobs
        self._handlers = handlers
        self._idle_interval = idle_interval
        self._start_time = _now()

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Any
    ) -> pb.ListWorkersResponse:
        workers = {WORKER: self._worker()} if self._handlers else {}
        listed, token = page(request, workers)
        return pb.ListWorkersResponse(workers=listed, next_page_token=token)

    async def ListQueues(
        self, request: pb.ListQueuesRequest, context: Any
    ) -> pb.ListQueuesResponse:
        listed, token = page(request, self._queues())
        return pb.ListQueuesResponse(queues=listed, next_page_token=token, measure_time=_now())

    async def WatchOverview(
        self, request: pb.WatchOverviewRequest, context: Any
    ) -> AsyncIterator[pb.WatchOverviewResponse]:
        interval = _seconds(request.interval) if request.HasField("interval") else 0.2
        if not 0.1 <= interval <= 60:
            raise invalid(("interval", "must be 0.1 s to 60 s"))
        idle = self._idle_interval(request)
        while True:
            changed = self._jobs.changed
            yield pb.WatchOverviewResponse(overview=self._overview())
            await asyncio.sleep(interval)
            while not await wait_for_change(idle, changed):
                yield pb.WatchOverviewResponse(mark=WATCH_MARK_IDLE)

    async def GetHistory(
        self, request: pb.GetHistoryRequest, context: Any
    ) -> pb.GetHistoryResponse:
        period, step = _read_periods(request)
        points = max(1, math.ceil(period / step))
        last = math.floor(_unix(_now()) / step)
        tallies = [_Tally() for _ in range(points)]
        for measured in self._measured_events():
            event = measured.event
            place = points - 1 - last + math.floor(_unix(event.event_time) / step)
            selected = (not request.queue or event.queue == request.queue) and (
                not request.type or event.job_type == request.type
            )
            if selected and 0 <= place < points:
                tallies[place].add(measured)
        response = pb.GetHistoryResponse(step=_duration(step))
        for number, tally in enumerate(tallies):
            response.points.add(
                start_time=Timestamp(seconds=round((last - points + 1 + number) * step)),
                wait=_latency(tally.waits),
                run=_latency(tally.runs),
                **{name: tally.counts[name] for name in _NAMES},
            )
        return response

    def _worker(self) -> pb.Worker:
        running = sorted(self._in_state(JOB_STATE_RUNNING), key=lambda job: _unix(job.start_time))
        now = _now()
        return pb.Worker(
            id=WORKER,
            name="fake",
            pool="fake",
            tenants=["default"],
            types=sorted(self._handlers),
            slots=_SLOTS,
            busy_slots=len(running),
            running_jobs=[
                pb.RunningJob(
                    job_id=job.id,
                    type=job.type,
                    queue=job.queue,
                    attempt=job.attempt,
                    start_time=job.start_time,
                )
                for job in running[:_MAX_LISTED_JOBS]
            ],
            live=True,
            start_time=self._start_time,
            heartbeat_time=now,
            lease_expire_time=Timestamp(seconds=now.seconds + 30, nanos=now.nanos),
        )

    def _queues(self) -> dict[str, pb.QueueStatus]:
        by_queue: dict[str, list[Job]] = {}
        for job in self._jobs.by_id.values():
            by_queue.setdefault(job.queue, []).append(job)
        return {queue: self._queue(queue, by_queue[queue]) for queue in sorted(by_queue)}

    def _queue(self, queue: str, jobs: Iterable[Job]) -> pb.QueueStatus:
        jobs = list(jobs)
        waiting = [job for job in jobs if job.state == JOB_STATE_QUEUED]
        served = any(job.type in self._handlers for job in waiting or jobs)
        oldest = min(waiting, key=lambda job: _unix(job.queue_time), default=None)
        return pb.QueueStatus(
            queue=queue,
            states=state_counts(jobs),
            oldest_queue_time=None if oldest is None else oldest.queue_time,
            workers=int(served),
            slots=_SLOTS * served,
        )

    def _overview(self) -> pb.Overview:
        now = _now()
        waiting = self._in_state(JOB_STATE_QUEUED)
        oldest = min(waiting, key=lambda job: _unix(job.queue_time), default=None)
        last = self._recent(_RATE_PERIODS[-1])
        return pb.Overview(
            overview_time=now,
            count_time=now,
            states=state_counts(self._jobs.by_id.values()),
            queues=self._queues().values(),
            oldest_job=None
            if oldest is None
            else pb.OldestJob(
                job_id=oldest.id,
                queue=oldest.queue,
                type=oldest.type,
                queue_time=oldest.queue_time,
            ),
            workers=int(bool(self._handlers)),
            slots=_SLOTS * bool(self._handlers),
            busy_slots=len(self._in_state(JOB_STATE_RUNNING)),
            rates=map(self._rates, _RATE_PERIODS),
            wait=_latency(last.waits),
            run=_latency(last.runs),
            failing_types=self._failing_types(),
        )

    def _in_state(self, state: JobState.ValueType) -> Sequence[Job]:
        return [job for job in self._jobs.by_id.values() if job.state == state]

    def _rates(self, period: float) -> pb.Rates:
        window = min(period, max(1.0, _unix(_now()) - _unix(self._start_time)))
        counts = self._recent(period).counts
        return pb.Rates(
            window=_duration(window), **{name: counts[name] / window for name in _NAMES}
        )

    def _recent(self, period: float) -> _Tally:
        """Return the counts and durations of the last `period` seconds."""
        tally, earliest = _Tally(), _unix(_now()) - period
        for measured in self._measured_events():
            if _unix(measured.event.event_time) >= earliest:
                tally.add(measured)
        return tally

    def _measured_events(self) -> Iterator[_Measured]:
        """Yield all events except reports, with the durations that they end."""
        queued: dict[str, float] = {}
        started: dict[str, float] = {}
        for event in self._jobs.log:
            kind = JobEventType.Name(event.type).removeprefix("JOB_EVENT_TYPE_")
            if kind in _REPORTS:
                continue
            time, wait, run = _unix(event.event_time), None, None
            if kind == "STARTED":
                wait = time - queued[event.job_id]
                started[event.job_id] = time
            elif event.job_id in started:
                run = time - started.pop(event.job_id)
            if event.state == JOB_STATE_QUEUED:
                queued[event.job_id] = time
            yield _Measured(event, kind, wait, run)

    def _failing_types(self) -> list[pb.FailingType]:
        earliest = _unix(_now()) - _ERROR_PERIOD
        found: dict[tuple[str, str], pb.FailingType] = {}
        for event in self._jobs.log:
            if event.HasField("error") and _unix(event.event_time) >= earliest:
                key = event.job_type, event.error.type
                failing = found.setdefault(key, pb.FailingType(type=key[0], error_type=key[1]))
                failing.attempts += 1
                failing.last_job_id = event.job_id
                failing.last_time.CopyFrom(event.event_time)
        return sorted(found.values(), key=lambda failing: -failing.attempts)[:_MAX_FAILING_TYPES]


def _read_periods(request: pb.GetHistoryRequest) -> tuple[float, float]:
    """Return the range of a history and the length of its periods, in seconds."""
    period = _seconds(request.range) if request.HasField("range") else 60 * _MINUTE
    step = _MINUTE * max(1, math.ceil(period / (_MINUTE * _DEFAULT_POINTS)))
    violations = []
    if not _MINUTE <= period <= _MAX_RANGE:
        violations.append(("range", "must be 1 minute to 31 days"))
    if request.HasField("step"):
        step = _seconds(request.step)
        if step < _MINUTE or step % _MINUTE:
            violations.append(("step", "must be a whole number of minutes"))
        elif period > step * _MAX_POINTS:
            violations.append(("step", f"the range would have more than {_MAX_POINTS} points"))
    violations += [
        (name, NAME_RULE)
        for name in ("queue", "type")
        if getattr(request, name) and not is_name(getattr(request, name))
    ]
    if violations:
        raise invalid(*violations)
    return period, step


def _latency(seconds: Sequence[float]) -> pb.Latency:
    latency = pb.Latency(count=len(seconds))
    if seconds:
        ordered = sorted(seconds)
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            rank = max(1, math.ceil(len(ordered) * share))
            getattr(latency, name).CopyFrom(_duration(ordered[rank - 1]))
    return latency


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


def _unix(time: Timestamp) -> float:
    return time.ToNanoseconds() / 1e9


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
