"""An attempt ends once, whatever comes over it in the same moment."""

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
from headrace_worker.api.context import Context
from headrace_worker.api.payload import Decoder
from headrace_worker.api.registry import Mode, RegisteredHandler
from headrace_worker.attempt.execution import Execution, StopReason
from headrace_worker.attempt.reporter import AttemptReporter
from headrace_worker.metrics import Counts
from headrace_worker.runners.modes import Modes
from headrace_worker.runners.process_pool import ProcessPool


def registered(
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


def job() -> ClaimedJob:
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


async def _takes(_: AttemptReport) -> bool:
    return True


def execution(
    handler: RegisteredHandler,
    on_end: Callable[[Execution, AttemptEnd | None], None],
    *,
    grace: float = 5.0,
    processes: ProcessPool | None = None,
    holds: Callable[[WorkerId], bool] = lambda _: True,
    write: Callable[[AttemptReport], Awaitable[bool]] = _takes,
) -> Execution:
    def reporter(execution: Execution) -> AttemptReporter:
        return AttemptReporter(
            key=execution.job.key,
            write=write,
            max_output_bytes=1000,
            max_result_bytes=1000,
        )

    return Execution(
        job=job(),
        worker_id=WorkerId(uuid7()),
        handler=handler,
        holds=holds,
        modes=Modes(
            processes=processes or ProcessPool(Settings()),
            grace=grace,
            counts=Counts(),
        ),
        reporter=reporter,
        max_result_bytes=1000,
        max_losses=3,
        max_interruptions=100,
        grace=grace,
        on_end=on_end,
    )


async def _waits(_: object) -> None:
    await asyncio.get_running_loop().create_future()


async def _cleans_up_for_long(_: object) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        time.sleep(0.05)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize(
    ("function", "grace"), [(_waits, 0.0), (_waits, 5.0), (_cleans_up_for_long, 0.02)]
)
def test_a_cancelled_attempt_ends_once(
    function: Callable[..., Awaitable[Any]], grace: float, run: Callable[..., None]
) -> None:
    ends: list[AttemptEnd | None] = []

    async def main() -> None:
        ended = asyncio.Event()

        def on_end(_: Execution, finish: AttemptEnd | None) -> None:
            ends.append(finish)
            ended.set()

        attempt = execution(registered(function), on_end, grace=grace)
        attempt.start()
        await asyncio.sleep(0)
        attempt.stop(StopReason.CANCEL)
        await ended.wait()
        # Whatever else was due in this moment.
        await asyncio.sleep(0.1)

    run(main())
    assert [finish and finish.event for finish in ends] == [EventType.CANCELLED]


@pytest.mark.parametrize("mode", ["async", "thread", "process"])
async def test_nothing_starts_once_its_lease_has_lapsed(mode: Mode) -> None:
    started = []
    ended = asyncio.Event()
    ends: list[AttemptEnd | None] = []

    def on_end(_: Execution, finish: AttemptEnd | None) -> None:
        ends.append(finish)
        ended.set()

    def starts(_: object) -> None:
        started.append(True)

    async def starts_in_the_loop(_: object) -> None:
        started.append(True)

    held = True
    processes = ProcessPool(Settings(worker_processes=1))
    function: Callable[..., Any] = starts_in_the_loop if mode == "async" else starts
    attempt = execution(
        replace(registered(function), mode=mode), on_end, processes=processes, holds=lambda _: held
    )
    async with processes.place:
        # It waits for a place, or for the loop's next turn.
        attempt.start()
        held = False
        await asyncio.sleep(0)
    await ended.wait()
    assert ends == [None]
    assert started == []


async def _fails(_: object) -> None:
    raise ValueError("it fails")


async def _reports(_: object, context: Context) -> None:
    await context.progress(0.5)


@pytest.mark.parametrize(("function", "takes_context"), [(_fails, False), (_reports, True)])
async def test_an_attempt_that_has_ended_is_gone_at_once(
    function: Callable[..., Awaitable[Any]], takes_context: bool
) -> None:
    ended = asyncio.Event()
    attempt = execution(registered(function, takes_context=takes_context), lambda *_: ended.set())
    gone = weakref.ref(attempt)
    gc.collect()
    gc.disable()
    try:
        attempt.start()
        del attempt
        await ended.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def _completes_at_once(_: object, context: Context) -> None:
    await context.progress(0.5)
    await context.complete_in(None)


async def _completes_later(_: object, context: Context) -> None:
    await context.progress(0.5)
    # The loop's next turn: what is reported waits for more.
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
async def test_an_attempt_that_is_stopped_as_it_sets_out_to_complete_ends(
    function: Callable[..., Awaitable[Any]], reason: StopReason, event: EventType | None
) -> None:
    writing, answered, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    taken: list[AttemptReport] = []
    ends: list[AttemptEnd | None] = []

    async def write(report: AttemptReport) -> bool:
        writing.set()
        await answered.wait()
        taken.append(report)
        return True

    def on_end(attempt: Execution, finish: AttemptEnd | None) -> None:
        assert attempt.completes
        ends.append(finish)
        ended.set()

    attempt = execution(registered(function, takes_context=True), on_end, write=write)
    async with asyncio.timeout(5):
        attempt.start()
        await writing.wait()
        attempt.stop(reason)
        # The handler has ended, and what it reported is still being written.
        await asyncio.sleep(0)
        answered.set()
        await ended.wait()
    assert [finish and finish.event for finish in ends] == [event]
    assert [report.progress and report.progress.fraction for report in taken] == [0.5]


async def _reports_later(_: object, context: Context) -> None:
    await context.progress(0.5)
    await asyncio.sleep(0)


async def _emits(_: object, context: Context) -> None:
    await context.progress(0.5)
    await context.emit("x")


@pytest.mark.parametrize("function", [_reports, _reports_later, _emits])
async def test_progress_that_is_refused_changes_nothing_about_how_an_attempt_ends(
    function: Callable[..., Awaitable[Any]],
) -> None:
    ended = asyncio.Event()
    ends: list[AttemptEnd | None] = []

    async def write(report: AttemptReport) -> bool:
        if report.progress is not None:
            raise asyncpg.DataError
        return True

    def on_end(_: Execution, finish: AttemptEnd | None) -> None:
        ends.append(finish)
        ended.set()

    attempt = execution(registered(function, takes_context=True), on_end, write=write)
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            attempt.start()
            await ended.wait()
    assert [finish and finish.event for finish in ends] == [EventType.SUCCEEDED]
    assert [line["event"] for line in logs] == ["progress_refused"]


async def test_attempt_cancelled_by_others_is_interrupted() -> None:
    ends: list[AttemptEnd | None] = []
    ended = asyncio.Event()

    def on_end(_: Execution, finish: AttemptEnd | None) -> None:
        ends.append(finish)
        ended.set()

    attempt = execution(registered(_waits), on_end)
    attempt.start()
    await asyncio.sleep(0)
    assert attempt._work is not None
    attempt._work.cancel()
    await ended.wait()
    [finish] = ends
    assert finish is not None
    assert finish.event is EventType.INTERRUPTED


async def test_attempt_that_cancels_itself_fails() -> None:
    ends: list[AttemptEnd | None] = []
    ended = asyncio.Event()

    def on_end(_: Execution, finish: AttemptEnd | None) -> None:
        ends.append(finish)
        ended.set()

    async def cancels_itself(_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    execution(registered(cancels_itself), on_end).start()
    await ended.wait()
    [finish] = ends
    assert finish is not None
    assert finish.error is not None
    assert (finish.event, finish.error.type) == (EventType.RETRY_SCHEDULED, "CancelledError")
