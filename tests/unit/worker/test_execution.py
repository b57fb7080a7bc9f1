"""An attempt ends exactly once, even with concurrent stops and reports."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import uvloop
from structlog.testing import capture_logs

from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport, ClaimedJob
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.retry import RetryOverrides, RetryPolicy
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_worker.api.context import Context
from headrace_worker.api.payload import Decoder
from headrace_worker.api.registry import Mode, RegisteredHandler
from headrace_worker.attempt.environment import Environment
from headrace_worker.attempt.execution import Execution, StopReason
from headrace_worker.attempt.judge import Limits
from headrace_worker.attempt.slots import Slots
from headrace_worker.metrics import Counts
from headrace_worker.runners.job_log import LogLimits
from headrace_worker.runners.process_pool import ProcessPool
from headrace_worker.runners.runners import Runners
from headrace_worker.timing import Timing
from headrace_worker.writes.logs import LogWriter


def make_handler(
    function: Callable[..., Awaitable[Any]], *, takes_context: bool = False
) -> RegisteredHandler:
    return RegisteredHandler(
        spec=HandlerSpec(
            type="t",
            queue="default",
            description="",
            payload_schema="{}",
            result_schema="{}",
            timeout=timedelta(minutes=1),
            retry=RetryPolicy(),
        ),
        function=function,
        mode="async",
        decode=Decoder(Any),
        takes_context=takes_context,
    )


def claimed_job() -> ClaimedJob:
    return ClaimedJob(
        key=AttemptKey(JobId(uuid7()), 1),
        tenant="default",
        type="t",
        queue="default",
        payload="{}",
        labels={},
        retries_used=0,
        worker_losses=0,
        interruptions=0,
        retry=RetryOverrides(),
        correlation_id=None,
        timeout=None,
        deadline=None,
        time_left=None,
    )


async def _accept_report(_: WorkerId, __: AttemptReport) -> bool:
    return True


class EndRecorder:
    """Receives the end of an attempt."""

    def __init__(self) -> None:
        self.ends: list[AttemptEnd | None] = []
        self.completes = False
        self._ended = asyncio.Event()

    def __call__(self, execution: Execution, end: AttemptEnd | None) -> None:
        self.ends.append(end)
        self.completes = execution.completes
        self._ended.set()

    async def wait(self) -> None:
        async with asyncio.timeout(60):
            await self._ended.wait()

    @property
    def events(self) -> list[EventType | None]:
        return [end and end.event for end in self.ends]


def log_writer() -> LogWriter:
    """Return a writer that was not started, so it drops all lines."""
    return LogWriter(
        database=Database(Settings(), application="test"),
        find_worker=lambda _: None,
        limits=LogLimits.of(Settings()),
        on_written=lambda: None,
        timing=Timing(),
    )


def make_execution(
    handler: RegisteredHandler,
    on_end: Callable[[Execution, AttemptEnd | None], None],
    *,
    grace: float = 5.0,
    processes: ProcessPool | None = None,
    is_held: Callable[[WorkerId], bool] = lambda _: True,
    write: Callable[[WorkerId, AttemptReport], Awaitable[bool]] = _accept_report,
    release: Callable[[Execution], None] = lambda _: None,
) -> Execution:
    environment = Environment(
        is_held=is_held,
        runners=Runners(
            processes=processes or ProcessPool(Settings()), grace=grace, counts=Counts(), log=None
        ),
        write_report=write,
        logs=log_writer(),
        on_end=on_end,
        release=release,
        limits=Limits(result_bytes=1000, output_bytes=1000, losses=3, interruptions=100),
        grace=grace,
        timing=Timing(),
    )
    return Execution(
        job=claimed_job(), worker_id=WorkerId(uuid7()), handler=handler, environment=environment
    )


async def _waits(_: object) -> None:
    await asyncio.get_running_loop().create_future()


async def _cleans_up_slowly(_: object) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        time.sleep(0.05)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize(
    ("function", "grace"), [(_waits, 0.0), (_waits, 5.0), (_cleans_up_slowly, 0.02)]
)
def test_cancelled_attempt_ends_once(
    function: Callable[..., Awaitable[Any]], grace: float, run: Callable[..., Any]
) -> None:
    async def main() -> list[EventType | None]:
        ends = EndRecorder()
        attempt = make_execution(make_handler(function), ends, grace=grace)
        attempt.start()
        await asyncio.sleep(0)
        attempt.stop(StopReason.CANCEL)
        await ends.wait()
        # Grace period in which a second end would arrive.
        await asyncio.sleep(0.1)
        return ends.events

    assert run(main()) == [EventType.CANCELLED]


@pytest.mark.parametrize("mode", ["async", "thread", "process"])
async def test_handler_whose_lease_lapsed_does_not_start(mode: Mode) -> None:
    started = []
    ends = EndRecorder()

    def starts(_: object) -> None:
        started.append(True)

    async def starts_in_the_loop(_: object) -> None:
        started.append(True)

    held = True
    processes = ProcessPool(Settings(worker_processes=1))
    function: Callable[..., Any] = starts_in_the_loop if mode == "async" else starts
    attempt = make_execution(
        replace(make_handler(function), mode=mode),
        ends,
        processes=processes,
        is_held=lambda _: held,
    )
    async with processes.permits:
        # The attempt waits for a permit or for the next loop iteration.
        attempt.start()
        held = False
        await asyncio.sleep(0)
    await ends.wait()
    assert ends.ends == [None]
    assert started == []


async def _fails(_: object) -> None:
    raise ValueError("it fails")


async def _reports(_: object, context: Context) -> None:
    await context.progress(0.5)


@pytest.mark.parametrize(("function", "takes_context"), [(_fails, False), (_reports, True)])
async def test_ended_attempt_is_freed_without_the_collector(
    function: Callable[..., Awaitable[Any]], takes_context: bool
) -> None:
    ended = asyncio.Event()
    attempt = make_execution(
        make_handler(function, takes_context=takes_context), lambda *_: ended.set()
    )
    reference = weakref.ref(attempt)
    gc.collect()
    gc.disable()
    try:
        attempt.start()
        del attempt
        await ended.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert reference() is None
    finally:
        gc.enable()


async def test_slot_is_released_once() -> None:
    freed: list[bool] = []
    slots = Slots(free=lambda: freed.append(True))
    ends = EndRecorder()
    attempt = make_execution(make_handler(_fails), ends, release=slots.release)
    slots.occupy(attempt)
    attempt.start()
    await ends.wait()
    assert (len(slots), freed) == (1, [])
    attempt.release()
    attempt.release()
    assert (len(slots), freed) == (0, [True])
    assert await slots.wait_until_free(0.0)


async def _completes_at_once(_: object, context: Context) -> None:
    await context.progress(0.5)
    await context.complete_in(None)


async def _completes_later(_: object, context: Context) -> None:
    await context.progress(0.5)
    # In the next loop iteration, the progress waits for more reports.
    await asyncio.sleep(0)
    await context.complete_in(None)


@pytest.mark.parametrize("function", [_completes_at_once, _completes_later])
@pytest.mark.parametrize(
    ("reason", "event"),
    [
        (StopReason.CANCEL, EventType.CANCELLED),
        (StopReason.DRAIN, EventType.INTERRUPTED),
        (StopReason.LOST, None),
    ],
)
async def test_attempt_stopped_before_it_completes_ends(
    function: Callable[..., Awaitable[Any]], reason: StopReason, event: EventType | None
) -> None:
    writing, released, ends = asyncio.Event(), asyncio.Event(), EndRecorder()
    written: list[AttemptReport] = []

    async def write(_: WorkerId, report: AttemptReport) -> bool:
        writing.set()
        await released.wait()
        written.append(report)
        return True

    attempt = make_execution(make_handler(function, takes_context=True), ends, write=write)
    async with asyncio.timeout(30):
        attempt.start()
        await writing.wait()
        attempt.stop(reason)
        # The handler has ended; its report is still being written.
        await asyncio.sleep(0)
        released.set()
        await ends.wait()
    assert ends.completes
    assert ends.events == [event]
    assert [report.progress and report.progress.fraction for report in written] == [0.5]


async def _reports_later(_: object, context: Context) -> None:
    await context.progress(0.5)
    await asyncio.sleep(0)


async def _emits(_: object, context: Context) -> None:
    await context.progress(0.5)
    await context.emit("x")


@pytest.mark.parametrize("function", [_reports, _reports_later, _emits])
async def test_refused_progress_does_not_change_the_end(
    function: Callable[..., Awaitable[Any]],
) -> None:
    ends = EndRecorder()

    async def write(_: WorkerId, report: AttemptReport) -> bool:
        if report.progress is not None:
            raise asyncpg.DataError
        return True

    attempt = make_execution(make_handler(function, takes_context=True), ends, write=write)
    with capture_logs() as logs:
        attempt.start()
        await ends.wait()
    assert ends.events == [EventType.SUCCEEDED]
    assert [line["event"] for line in logs] == ["progress_refused"]


async def test_attempt_whose_report_is_refused_is_lost() -> None:
    ends = EndRecorder()

    async def write(_: WorkerId, __: AttemptReport) -> bool:
        return False

    async def emits_and_waits(_: object, context: Context) -> None:
        await context.emit("x")
        await asyncio.Event().wait()

    make_execution(make_handler(emits_and_waits, takes_context=True), ends, write=write).start()
    await ends.wait()
    assert ends.ends == [None]


async def test_attempt_cancelled_by_another_task_is_interrupted() -> None:
    ends = EndRecorder()
    attempt = make_execution(make_handler(_waits), ends)
    attempt.start()
    await asyncio.sleep(0)
    assert attempt._work is not None
    attempt._work.cancel()
    await ends.wait()
    assert ends.events == [EventType.INTERRUPTED]


async def test_attempt_that_cancels_itself_fails() -> None:
    ends = EndRecorder()

    async def cancels_itself(_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    make_execution(make_handler(cancels_itself), ends).start()
    await ends.wait()
    [end] = ends.ends
    assert end is not None
    assert end.error is not None
    assert (end.event, end.error.type) == (EventType.RETRY_SCHEDULED, "CancelledError")
