"""Handlers for the tests, in a module that separate processes can import."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from headrace_worker import Context, Fail, InvalidProgress, Retry, RetryPolicy, SyncContext
from headrace_worker.api.registry import Registry, handler, registry

_FAST_RETRIES = RetryPolicy(
    max_attempts=3,
    initial_backoff=timedelta(milliseconds=10),
    max_backoff=timedelta(milliseconds=20),
)


_ONE_ATTEMPT = RetryPolicy(max_attempts=1)


class Number(msgspec.Struct, forbid_unknown_fields=True):
    """A payload with a number."""

    number: int


@handler("t.echo")
async def echo(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Return the payload and the attempt number."""
    return {**payload, "attempt": ctx.attempt.number}


@handler("t.trace")
async def trace_in_loop(payload: Any, ctx: Context) -> dict[str, str]:
    """Return the trace headers."""
    return ctx.trace_headers


@handler("t.trace.process", isolation="process")
def trace_in_process(payload: Any, ctx: SyncContext) -> dict[str, str]:
    """Return the trace headers."""
    return ctx.trace_headers


@handler("t.tenant")
async def tenant(_payload: dict[str, Any], ctx: Context) -> str:
    """Return the tenant of the job."""
    return ctx.tenant


@handler("t.double")
async def double(payload: Number) -> Number:
    """Double the number."""
    return Number(number=payload.number * 2)


@handler("t.flaky", retry=_FAST_RETRIES)
async def flaky(payload: Number, ctx: Context) -> int:
    """Fail in the given number of attempts, then succeed."""
    if ctx.fence <= payload.number:
        raise ValueError(f"attempt {ctx.fence} fails")
    return ctx.fence


@handler(
    "t.flaky_not_retried", retry=replace(_FAST_RETRIES, non_retryable_error_types=("ValueError",))
)
async def flaky_not_retried(payload: Number, ctx: Context) -> int:
    """Run `flaky` with errors that are not retryable."""
    return await flaky(payload, ctx)


@handler("t.process_flaky", retry=_FAST_RETRIES, isolation="process")
def process_flaky(payload: Number, ctx: SyncContext) -> int:
    """Run `flaky` in a process."""
    if ctx.fence <= payload.number:
        raise ValueError(f"attempt {ctx.fence} fails")
    return ctx.fence


@handler("t.retry_later", retry=_FAST_RETRIES)
async def retry_later(payload: Number, ctx: Context) -> int:
    """In the first attempt, request a retry after the given number of milliseconds."""
    if ctx.fence == 1:
        raise Retry("not yet", after=timedelta(milliseconds=payload.number))
    return ctx.fence


@handler("t.hopeless", retry=_FAST_RETRIES)
async def fail(payload: Any) -> None:
    """Fail without retry."""
    raise Fail("this job cannot succeed", type="Hopeless")


@handler("t.forever")
async def forever(payload: Any, ctx: Context) -> None:
    """Run until the attempt is cancelled."""
    await asyncio.Event().wait()


@handler("t.block_loop", retry=_ONE_ATTEMPT)
async def block_the_loop(payload: Number) -> None:
    """Block the worker's event loop for the given number of seconds."""
    time.sleep(payload.number)


@handler("t.ignore_cancel_once")
async def ignore_cancel_once(payload: Any, ctx: Context) -> None:
    """Ignore the first cancellation."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


@handler("t.ignore_cancel")
async def ignore_cancel(payload: Any, ctx: Context) -> None:
    """Ignore every cancellation."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


@handler("t.ignore_cancel_thread")
def ignore_cancel_in_thread(payload: Any, ctx: SyncContext) -> None:
    """Wait in a thread and never check for cancellation."""
    threading.Event().wait()


@handler("t.sleep_in_process", isolation="process")
def sleep_in_process(payload: Number, ctx: SyncContext) -> None:
    """Emit the process id, then sleep for the given number of milliseconds."""
    ctx.emit(os.getpid())
    time.sleep(payload.number / 1000)


_ALLOCATED: list[bytes] = []


@handler("t.allocate_unlimited", isolation="process")
def allocate_unlimited_memory(payload: Number, ctx: SyncContext) -> None:
    """Allocate the given number of MiB, without a limit."""
    allocate_memory(payload, ctx)


@handler("t.allocate", isolation="process", memory_limit=lambda: 256 * 2**20)
def allocate_memory(payload: Number, ctx: SyncContext) -> None:
    """Allocate the given number of MiB, or all memory if the number is negative."""
    while len(_ALLOCATED) != payload.number:
        _ALLOCATED.append(b"x" * 2**20)
    ctx.emit(os.getpid())


@handler("t.thread")
def in_thread(payload: Number, ctx: SyncContext) -> str:
    """Report progress and output from a thread."""
    for done in range(payload.number):
        ctx.progress(done / payload.number, f"step {done}", done=done)
        ctx.emit(f"chunk {done}")
    return threading.current_thread().name


@handler("t.wait_thread")
def wait_in_thread(payload: Any, ctx: SyncContext) -> str:
    """Wait in a thread until cancelled."""
    ctx.cancel_event.wait(60)
    return "cancelled"


@handler("t.read_file")
def read_file(payload: str) -> str:
    """Read a file, or wait for the writer of a pipe."""
    return Path(payload).read_text()


@handler("t.progress")
async def progress(payload: Number, ctx: Context) -> None:
    """Report progress far more often than it is stored."""
    for done in range(payload.number):
        await ctx.progress((done + 1) / payload.number, done=done)


@handler("t.output")
async def output(payload: Number, ctx: Context) -> None:
    """Emit the given number of pieces."""
    for number in range(payload.number):
        await ctx.emit({"n": number})


@handler("t.large_output")
async def large_output(payload: Number, ctx: Context) -> None:
    """Emit one piece with the given number of bytes."""
    await ctx.emit("x" * payload.number)


@handler("t.large_result")
async def large_result(payload: Number) -> str:
    """Return the given number of bytes."""
    return "x" * payload.number


@handler("t.nan", retry=_FAST_RETRIES)
async def return_nan(payload: Any) -> dict[str, Any]:
    """Return NaN, which JSON cannot represent."""
    return {"mean": [1.0, math.nan], "none": None}


@handler("t.nan_thread", retry=_FAST_RETRIES)
def return_nan_in_thread(payload: Any) -> float:
    """Return Infinity from a thread."""
    return math.inf


@handler("t.nan_process", isolation="process", retry=_FAST_RETRIES)
def return_nan_in_process(payload: Any) -> float:
    """Return -Infinity from a process."""
    return -math.inf


@handler("t.nan_output", retry=_FAST_RETRIES)
async def emit_nan(payload: Any, ctx: Context) -> None:
    """Emit NaN."""
    await ctx.emit({"loss": math.nan})


_BAD_COUNTER: Any = "a" * 17_000_000


@handler("t.bad_progress", retry=_FAST_RETRIES)
async def bad_progress(payload: Any, ctx: Context) -> str:
    """Report an invalid counter, catch the error, and report an invalid counter again."""
    try:
        await ctx.progress(0.5, n=_BAD_COUNTER)
    except InvalidProgress:
        await ctx.progress(0.6, n=1)
    await ctx.progress(0.7, n=_BAD_COUNTER)
    return "not rejected"


def _bad_progress(payload: Any, ctx: SyncContext) -> str:
    """Run `bad_progress` synchronously."""
    try:
        ctx.progress(0.5, n=_BAD_COUNTER)
    except InvalidProgress:
        ctx.progress(0.6, n=1)
    ctx.progress(0.7, n=_BAD_COUNTER)
    return "not rejected"


handler("t.bad_progress_thread", retry=_FAST_RETRIES)(_bad_progress)
handler("t.bad_progress_process", retry=_FAST_RETRIES, isolation="process")(_bad_progress)


@handler("t.process", isolation="process")
def in_process(payload: Number, ctx: SyncContext) -> dict[str, int]:
    """Report progress and output from a process."""
    ctx.progress(0.5, "half")
    ctx.emit("from a process")
    print("printed output must not affect the job")  # noqa: T201
    return {"pid": os.getpid(), "number": payload.number}


@handler("t.spin", isolation="process")
def spin(payload: Any, ctx: SyncContext) -> None:
    """Use a CPU fully and never check for cancellation."""
    ctx.emit(os.getpid())
    while True:
        time.sleep(0)


@handler("t.fork", isolation="process")
def fork(new_session: bool, ctx: SyncContext) -> None:
    """Fork a child, in a new session if `new_session`; parent and child wait forever."""
    if (child := os.fork()) == 0:
        if new_session:
            os.setsid()
        while True:
            signal.pause()
    while new_session and os.getsid(child) != child:
        time.sleep(0)
    ctx.emit([os.getpid(), child])
    while True:
        signal.pause()


def _leave_children(payload: int) -> dict[str, Any]:
    """Use a process pool, terminate some of its children and leave others running."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        mapped = pool.map(abs, [-1, payload])
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join()
    child_process = multiprocessing.get_context("fork").Process(target=signal.pause)
    child_process.start()
    with subprocess.Popen(["sleep", "600"]) as program:
        program.terminate()
    program = subprocess.Popen(["sleep", "600"])
    return {"mapped": mapped, "exit": child.exitcode, "left": [child_process.pid, program.pid]}


@handler("t.leave_children", retry=_ONE_ATTEMPT)
def leave_children(payload: int) -> dict[str, Any]:
    """Run `_leave_children` in a thread."""
    return _leave_children(payload)


@handler("t.leave_children_process", isolation="process", retry=_ONE_ATTEMPT)
def leave_children_in_process(payload: int) -> dict[str, Any]:
    """Run `_leave_children` in a process."""
    return {**_leave_children(payload), "pid": os.getpid()}


@handler("t.leave_children_loop", retry=_ONE_ATTEMPT)
async def leave_children_in_loop(payload: int) -> dict[str, Any]:
    """From the event loop, leave a forked child running."""
    child_process = multiprocessing.get_context("fork").Process(target=signal.pause)
    child_process.start()
    return {"left": [child_process.pid]}


def _fork_and_return() -> int:
    os.fork()
    return os.getpid()


@handler("t.fork_and_return", retry=_ONE_ATTEMPT)
def fork_and_return(payload: Any) -> int:
    """Fork, so that the handler returns in the parent and in the child."""
    return _fork_and_return()


@handler("t.fork_and_return_loop", retry=_ONE_ATTEMPT)
async def fork_and_return_in_loop(payload: Any) -> int:
    """Run `fork_and_return` in the event loop; the child could continue this loop."""
    pid = _fork_and_return()
    await asyncio.sleep(0)
    with Path(str(payload)).open("a") as continued:
        continued.write(f"{os.getpid()}\n")
    return pid


@handler("t.fork_and_return_task", retry=_ONE_ATTEMPT)
async def fork_and_return_in_task(payload: Any) -> int:
    """Run `fork_and_return_in_loop` in another task, and also fork in a callback."""
    asyncio.get_running_loop().call_soon(_fork_and_return)
    [pid] = await asyncio.gather(fork_and_return_in_loop(payload))
    return pid


@handler("t.fork_and_return_process", isolation="process", retry=_ONE_ATTEMPT)
def fork_and_return_in_process(payload: Any) -> int:
    """Run `fork_and_return` in a process."""
    return _fork_and_return()


@handler("t.close_files", isolation="process", retry=_ONE_ATTEMPT)
def close_files(payload: list[int]) -> int:
    """Close a range of file descriptors."""
    os.closerange(*payload)
    return os.getpid()


@handler("t.close_files_loop", isolation="process", retry=_ONE_ATTEMPT)
async def close_files_in_loop(payload: list[int]) -> int:
    """Run `close_files` in the event loop of a process."""
    os.closerange(*payload)
    return os.getpid()


@handler("t.send_sigterm", retry=_ONE_ATTEMPT)
def send_sigterm(payload: bool, ctx: SyncContext) -> int:
    """Send SIGTERM to the process or its parent, and wait until the worker cancels the attempt."""
    os.kill(os.getppid() if payload else os.getpid(), signal.SIGTERM)
    ctx.cancel_event.wait(3)
    return os.getpid()


@handler("t.crash", isolation="process", retry=RetryPolicy(max_attempts=1))
def crash(payload: Number) -> None:
    """Kill the process with the given signal."""
    os.kill(os.getpid(), payload.number)
    signal.pause()


@handler("t.flaky_worker")
async def flaky_worker(payload: Number, ctx: Context) -> int:
    """Kill the worker's process in the first attempt."""
    if ctx.fence == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.fence


@handler("t.raise_in_process", isolation="process", retry=RetryPolicy(max_attempts=1))
def raise_in_process(payload: Any) -> None:
    """Raise an exception in a process."""
    raise KeyError("missing")


@handler("t.crash_at_once", retry=_ONE_ATTEMPT)
async def crash_at_once(payload: Number) -> None:
    """Exit the process at once with the given code."""
    os._exit(payload.number)


_RUNS = itertools.count(1)
_TICKS = [0]
_TASKS: set[asyncio.Task[None]] = set()


@handler("t.background_task", isolation="process")
async def keep_background_task(payload: Any) -> dict[str, int]:
    """Keep a task in the event loop between runs; return its ticks since the last run."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.001)
            _TICKS[0] += 1

    run, ticks = next(_RUNS), _TICKS[0]
    if not _TASKS:
        _TASKS.add(asyncio.create_task(tick()))
    _TICKS[0] = 0
    return {"run": run, "ticks": ticks, "pid": os.getpid()}


_NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")


@handler("t.leave_task", isolation="process")
async def leave_task(payload: str, ctx: Context) -> str:
    """Leave a task that keeps emitting, and set a context variable; return its old value."""

    async def emit_repeatedly() -> None:
        while True:
            await asyncio.sleep(0.001)
            await ctx.emit(f"{payload}, later")

    _TASKS.add(asyncio.create_task(emit_repeatedly()))
    name = _NAME.get()
    _NAME.set(payload)
    await ctx.emit(payload)
    return name


@handler("t.logs", isolation="process")
async def write_logs(payload: str) -> None:
    """Log with structlog and with logging."""
    structlog.get_logger().info("logged_by_handler", what=payload)
    structlog.get_logger().debug("not_logged_by_handler")
    logging.getLogger("its.library").warning(payload)


@handler("t.memory_error", isolation="process", retry=_FAST_RETRIES)
def raise_memory_error(payload: Any, ctx: SyncContext) -> int:
    """Run out of memory in the first attempt; return the process id in the second."""
    ctx.emit(os.getpid())
    if ctx.fence == 1:
        raise MemoryError
    return os.getpid()


@handler("t.exit", retry=_ONE_ATTEMPT)
async def exit_process(payload: Any) -> None:
    """Try to exit the whole process."""
    sys.exit("exits")


@handler("t.exit_thread", retry=_ONE_ATTEMPT)
def exit_in_thread(payload: Any) -> None:
    """Try to exit the whole process from a thread."""
    sys.exit("exits")


@handler("t.exit_in_task", retry=_ONE_ATTEMPT)
async def exit_in_task(variant: str) -> None:
    """Raise SystemExit or KeyboardInterrupt outside the handler's own task."""

    async def interrupt_later() -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def exit_later() -> None:
        await asyncio.sleep(0)
        sys.exit(2)

    loop = asyncio.get_running_loop()
    match variant:
        case "wait_for":
            await asyncio.wait_for(exit_later(), 5)
        case "gather":
            await asyncio.gather(interrupt_later(), asyncio.sleep(60), exit_later())
        case "create_task":
            await asyncio.create_task(exit_later())
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(interrupt_later())
                group.create_task(asyncio.sleep(60))
        case "executor":
            await loop.run_in_executor(None, sys.exit, 2)
        case "callback":
            loop.call_soon(sys.exit, 2)
            await asyncio.sleep(0.01)
            raise SystemExit
        case "stop":
            loop.stop()
            await asyncio.sleep(0.01)
            raise SystemExit


@handler("t.exit_in_task_process", retry=_ONE_ATTEMPT, isolation="process")
async def exit_in_task_in_process(variant: str) -> None:
    """Run `exit_in_task` in a process."""
    await exit_in_task(variant)


@handler("t.cancel_all", retry=_ONE_ATTEMPT)
async def cancel_all_tasks(payload: Any, ctx: Context) -> bool:
    """Cancel all other tasks; return whether a task of this handler was cancelled."""
    own = asyncio.create_task(asyncio.sleep(60))
    others = asyncio.all_tasks() - {asyncio.current_task(), own}
    for task in others:
        task.cancel()
    return own.cancel()


@handler("t.cancel_from_thread", retry=_ONE_ATTEMPT)
async def cancel_from_thread(payload: Any, ctx: Context) -> None:
    """Cancel all tasks from a thread outside any attempt."""
    loop = asyncio.get_running_loop()
    cancelled = asyncio.Event()

    def cancel_all() -> None:
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)
        loop.call_soon_threadsafe(cancelled.set)

    threading.Thread(target=cancel_all).start()
    await cancelled.wait()
    await ctx.emit("cancelled")
    await asyncio.Event().wait()


@handler("t.await_all")
async def await_all_tasks(payload: Any, ctx: Context) -> None:
    """Wait for all tasks with `gather`, which would pass a cancellation to them."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


@handler("t.stop_iteration", retry=_ONE_ATTEMPT)
def stop_iteration(payload: Any) -> None:
    """Raise StopIteration, which a future cannot contain."""
    next(iter(()))


class UnprintableError(Exception):
    """An exception whose text raises an error."""

    def __str__(self) -> str:
        """Raise LookupError."""
        raise LookupError


class ExitingTextError(Exception):
    """An exception whose text exits the process."""

    def __str__(self) -> str:
        """Exit the process."""
        raise SystemExit(3)


@handler("t.exiting_error", retry=_ONE_ATTEMPT)
async def raise_exiting_error(payload: Any) -> None:
    """Raise an exception whose text exits the process."""
    raise ExitingTextError


@handler("t.unprintable_error", retry=_ONE_ATTEMPT)
async def raise_unprintable_error(payload: Any) -> None:
    """Raise an exception whose text raises an error."""
    raise UnprintableError


@handler("t.invalid_utf8", retry=_ONE_ATTEMPT)
async def fail_with_invalid_utf8(payload: bool, ctx: Context) -> None:
    """Fail with a text that UTF-8 cannot represent; if the payload is true, without a retry."""
    await ctx.progress(0.5, "reading \udcff.csv")
    message = "no such file: \udcff.csv"
    raise Fail(message, type="Miss\udcff") if payload else LookupError(message)


@handler("t.invalid_json", retry=_ONE_ATTEMPT)
async def return_invalid_json(payload: Any) -> msgspec.Raw:
    """Return a result that the database rejects as JSON."""
    return msgspec.Raw(b"[")


@handler("t.retry_too_late")
async def retry_too_late(payload: Any) -> None:
    """Request a retry later than the last date that Python supports."""
    raise Retry(after=timedelta.max)


@handler("t.emit_forever")
async def emit_forever(payload: Any, ctx: Context) -> None:
    """Emit forever, and ignore all errors."""
    while True:
        with suppress(Exception):
            await ctx.emit("still here")
        await asyncio.sleep(0.05)


@handler("t.emit_at_once")
async def emit_at_once(payload: Number, ctx: Context) -> None:
    """Emit the given number of pieces at once."""
    await asyncio.gather(*(ctx.emit(number) for number in range(payload.number)))


def handlers() -> Registry:
    """Return a registry with the handlers of this module."""
    module_handlers = Registry()
    for registered in registry:
        if registered.spec.type.startswith("t."):
            module_handlers.add(registered)
    return module_handlers
