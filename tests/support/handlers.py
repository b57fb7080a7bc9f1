"""Handlers of the tests. They stand in a module of their own so that a process can import it."""

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

_QUICK = RetryPolicy(
    max_attempts=3,
    initial_backoff=timedelta(milliseconds=10),
    max_backoff=timedelta(milliseconds=20),
)


_ONCE = RetryPolicy(max_attempts=1)


class Number(msgspec.Struct, forbid_unknown_fields=True):
    """A payload."""

    number: int


@handler("t.echo")
async def echo(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns what it is given, and the attempt."""
    return {**payload, "attempt": ctx.attempt.number}


@handler("t.double")
async def double(payload: Number) -> Number:
    """Doubles."""
    return Number(number=payload.number * 2)


@handler("t.flaky", retry=_QUICK)
async def flaky(payload: Number, ctx: Context) -> int:
    """Fails as often as it is told, then succeeds."""
    if ctx.fence <= payload.number:
        raise ValueError(f"attempt {ctx.fence} fails")
    return ctx.fence


@handler("t.picky", retry=replace(_QUICK, non_retryable_error_types=("ValueError",)))
async def picky(payload: Number, ctx: Context) -> int:
    """As `flaky`, with errors that are not worth another attempt."""
    return await flaky(payload, ctx)


@handler("t.process_flaky", retry=_QUICK, isolation="process")
def process_flaky(payload: Number, ctx: SyncContext) -> int:
    """As `flaky`, in a process."""
    if ctx.fence <= payload.number:
        raise ValueError(f"attempt {ctx.fence} fails")
    return ctx.fence


@handler("t.later", retry=_QUICK)
async def later(payload: Number, ctx: Context) -> int:
    """Asks for another attempt once, after as many milliseconds."""
    if ctx.fence == 1:
        raise Retry("not yet", after=timedelta(milliseconds=payload.number))
    return ctx.fence


@handler("t.hopeless", retry=_QUICK)
async def hopeless(payload: Any) -> None:
    """Fails for good."""
    raise Fail("there is no hope", type="Hopeless")


@handler("t.forever")
async def forever(payload: Any, ctx: Context) -> None:
    """Runs until it is stopped."""
    await asyncio.Event().wait()


@handler("t.block", retry=_ONCE)
async def block_the_loop(payload: Number) -> None:
    """Blocks the worker's event loop for as many seconds."""
    time.sleep(payload.number)


@handler("t.stubborn")
async def stubborn(payload: Any, ctx: Context) -> None:
    """Swallows its cancellation, once."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


@handler("t.unstoppable")
async def unstoppable(payload: Any, ctx: Context) -> None:
    """Swallows every cancellation."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


@handler("t.stubborn_thread")
def stubborn_thread(payload: Any, ctx: SyncContext) -> None:
    """Waits in a thread and never looks whether it is cancelled."""
    threading.Event().wait()


@handler("t.sleep_in_process", isolation="process")
def sleep_in_process(payload: Number, ctx: SyncContext) -> None:
    """Takes as many milliseconds, and tells when they begin."""
    ctx.emit(os.getpid())
    time.sleep(payload.number / 1000)


_kept: list[bytes] = []


@handler("t.keep_any_memory", isolation="process")
def keep_any_memory(payload: Number, ctx: SyncContext) -> None:
    """Keeps as many MiB, without a limit."""
    keep_memory(payload, ctx)


@handler("t.keep_memory", isolation="process", memory_limit=lambda: 256 * 2**20)
def keep_memory(payload: Number, ctx: SyncContext) -> None:
    """Keeps as many MiB, or all there are when the number is negative."""
    while len(_kept) != payload.number:
        _kept.append(b"x" * 2**20)
    ctx.emit(os.getpid())


@handler("t.thread")
def in_thread(payload: Number, ctx: SyncContext) -> str:
    """Reports from a thread."""
    for done in range(payload.number):
        ctx.progress(done / payload.number, f"step {done}", done=done)
        ctx.emit(f"chunk {done}")
    return threading.current_thread().name


@handler("t.patient_thread")
def patient_thread(payload: Any, ctx: SyncContext) -> str:
    """Waits in a thread until it is cancelled."""
    ctx.cancel_event.wait(60)
    return "cancelled"


@handler("t.read")
def read(payload: str) -> str:
    """Reads a file, or waits for the other end of a pipe."""
    return Path(payload).read_text()


@handler("t.progress")
async def progress(payload: Number, ctx: Context) -> None:
    """Reports far more progress than is written."""
    for done in range(payload.number):
        await ctx.progress((done + 1) / payload.number, done=done)


@handler("t.output")
async def output(payload: Number, ctx: Context) -> None:
    """Emits as many pieces."""
    for number in range(payload.number):
        await ctx.emit({"n": number})


@handler("t.large_output")
async def large_output(payload: Number, ctx: Context) -> None:
    """Emits one piece of as many bytes."""
    await ctx.emit("x" * payload.number)


@handler("t.large_result")
async def large_result(payload: Number) -> str:
    """Returns as many bytes."""
    return "x" * payload.number


@handler("t.nan", retry=_QUICK)
async def nan(payload: Any) -> dict[str, Any]:
    """Returns what JSON cannot say."""
    return {"mean": [1.0, math.nan], "none": None}


@handler("t.nan_thread", retry=_QUICK)
def nan_in_thread(payload: Any) -> float:
    """Returns what JSON cannot say, from a thread."""
    return math.inf


@handler("t.nan_process", isolation="process", retry=_QUICK)
def nan_in_process(payload: Any) -> float:
    """Returns what JSON cannot say, from a process."""
    return -math.inf


@handler("t.nan_output", retry=_QUICK)
async def nan_output(payload: Any, ctx: Context) -> None:
    """Emits what JSON cannot say."""
    await ctx.emit({"loss": math.nan})


_BAD_COUNTER: Any = "a" * 17_000_000


@handler("t.bad_progress", retry=_QUICK)
async def bad_progress(payload: Any, ctx: Context) -> str:
    """Reports a counter that is not a number, catches the error, and reports it again."""
    try:
        await ctx.progress(0.5, n=_BAD_COUNTER)
    except InvalidProgress:
        await ctx.progress(0.6, n=1)
    await ctx.progress(0.7, n=_BAD_COUNTER)
    return "not refused"


def _bad_progress(payload: Any, ctx: SyncContext) -> str:
    """As `bad_progress`."""
    try:
        ctx.progress(0.5, n=_BAD_COUNTER)
    except InvalidProgress:
        ctx.progress(0.6, n=1)
    ctx.progress(0.7, n=_BAD_COUNTER)
    return "not refused"


handler("t.bad_progress_thread", retry=_QUICK)(_bad_progress)
handler("t.bad_progress_process", retry=_QUICK, isolation="process")(_bad_progress)


@handler("t.process", isolation="process")
def in_process(payload: Number, ctx: SyncContext) -> dict[str, int]:
    """Reports from a process."""
    ctx.progress(0.5, "half")
    ctx.emit("from a process")
    print("what a handler prints disturbs nothing")  # noqa: T201
    return {"pid": os.getpid(), "number": payload.number}


@handler("t.spin", isolation="process")
def spin(payload: Any, ctx: SyncContext) -> None:
    """Keeps a processor busy and never looks whether it is cancelled."""
    ctx.emit(os.getpid())
    while True:
        time.sleep(0)


@handler("t.forks", isolation="process")
def forks(away: bool, ctx: SyncContext) -> None:
    """Forks a child, which leaves for a session of its own if it shall; both wait for ever."""
    if (child := os.fork()) == 0:
        if away:
            os.setsid()
        while True:
            signal.pause()
    while away and os.getsid(child) != child:
        time.sleep(0)
    ctx.emit([os.getpid(), child])
    while True:
        signal.pause()


def _pools(payload: int) -> dict[str, Any]:
    """Works in a pool, and terminates a child; leaves another, which waits for ever."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        mapped = pool.map(abs, [-1, payload])
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join()
    left = multiprocessing.get_context("fork").Process(target=signal.pause)
    left.start()
    with subprocess.Popen(["sleep", "600"]) as program:
        program.terminate()
    program = subprocess.Popen(["sleep", "600"])
    return {"mapped": mapped, "exit": child.exitcode, "left": [left.pid, program.pid]}


@handler("t.pools", retry=_ONCE)
def pools(payload: int) -> dict[str, Any]:
    """As `_pools`, in a thread."""
    return _pools(payload)


@handler("t.pools_process", isolation="process", retry=_ONCE)
def pools_in_process(payload: int) -> dict[str, Any]:
    """As `_pools`, in a process."""
    return {**_pools(payload), "pid": os.getpid()}


@handler("t.pools_loop", retry=_ONCE)
async def pools_in_loop(payload: int) -> dict[str, Any]:
    """Leaves a child that it has forked, in the loop."""
    left = multiprocessing.get_context("fork").Process(target=signal.pause)
    left.start()
    return {"left": [left.pid]}


def _returns_twice() -> int:
    os.fork()
    return os.getpid()


@handler("t.returns_twice", retry=_ONCE)
def returns_twice(payload: Any) -> int:
    """Forks, and lets the child return as well."""
    return _returns_twice()


@handler("t.returns_twice_loop", retry=_ONCE)
async def returns_twice_in_loop(payload: Any) -> int:
    """As `returns_twice`, in the loop, which the child would run as well."""
    pid = _returns_twice()
    await asyncio.sleep(0)
    with Path(str(payload)).open("a") as came:
        came.write(f"{os.getpid()}\n")
    return pid


@handler("t.returns_twice_beside", retry=_ONCE)
async def returns_twice_beside(payload: Any) -> int:
    """As `returns_twice_in_loop`, in another task, and forks in a callback too."""
    asyncio.get_running_loop().call_soon(_returns_twice)
    [pid] = await asyncio.gather(returns_twice_in_loop(payload))
    return pid


@handler("t.returns_twice_process", isolation="process", retry=_ONCE)
def returns_twice_in_process(payload: Any) -> int:
    """As `returns_twice`, in a process."""
    return _returns_twice()


@handler("t.closes", isolation="process", retry=_ONCE)
def closes(payload: list[int]) -> int:
    """Closes the descriptors from the first to the last."""
    os.closerange(*payload)
    return os.getpid()


@handler("t.closes_loop", isolation="process", retry=_ONCE)
async def closes_in_loop(payload: list[int]) -> int:
    """As `closes`, in the loop of its process."""
    os.closerange(*payload)
    return os.getpid()


@handler("t.terminates", retry=_ONCE)
def terminates(payload: bool, ctx: SyncContext) -> int:
    """Sends SIGTERM to its process or to that one's parent, and waits until the worker stops it."""
    os.kill(os.getppid() if payload else os.getpid(), signal.SIGTERM)
    ctx.cancel_event.wait(3)
    return os.getpid()


@handler("t.crash", isolation="process", retry=RetryPolicy(max_attempts=1))
def crash(payload: Number) -> None:
    """Dies by a signal."""
    os.kill(os.getpid(), payload.number)
    signal.pause()


@handler("t.flaky_worker")
async def flaky_worker(payload: Number, ctx: Context) -> int:
    """Kills the worker's process in the first attempt."""
    if ctx.fence == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.fence


@handler("t.process_raises", isolation="process", retry=RetryPolicy(max_attempts=1))
def process_raises(payload: Any) -> None:
    """Raises in a process."""
    raise KeyError("gone")


@handler("t.crash_at_once", retry=_ONCE)
async def crash_at_once(payload: Number) -> None:
    """Ends the process in which it runs with this code, without a word."""
    os._exit(payload.number)


_RUNS = itertools.count(1)
_TICKS = [0]
_KEPT: set[asyncio.Task[None]] = set()


@handler("t.keeps", isolation="process")
async def keeps(payload: Any) -> dict[str, int]:
    """Keeps a task in the loop, as a client does; tells how far it has come between two runs."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.001)
            _TICKS[0] += 1

    run, ticks = next(_RUNS), _TICKS[0]
    if not _KEPT:
        _KEPT.add(asyncio.create_task(tick()))
    _TICKS[0] = 0
    return {"run": run, "ticks": ticks, "pid": os.getpid()}


_NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


@handler("t.leaves", isolation="process")
async def leaves(payload: str, ctx: Context) -> str:
    """Leaves a task that goes on emitting, and a context variable; returns the one it had."""

    async def chatter() -> None:
        while True:
            await asyncio.sleep(0.001)
            await ctx.emit(f"{payload}, later")

    _KEPT.add(asyncio.create_task(chatter()))
    name = _NAME.get()
    _NAME.set(payload)
    await ctx.emit(payload)
    return name


@handler("t.logs", isolation="process")
async def logs(payload: str) -> None:
    """Logs in both ways."""
    structlog.get_logger().info("said_by_handler", what=payload)
    structlog.get_logger().debug("not_said_by_handler")
    logging.getLogger("its.library").warning(payload)


@handler("t.memory", isolation="process", retry=_QUICK)
def memory(payload: Any, ctx: SyncContext) -> int:
    """Lets its process run out of memory, once; returns the process that had enough."""
    ctx.emit(os.getpid())
    if ctx.fence == 1:
        raise MemoryError
    return os.getpid()


@handler("t.exits", retry=_ONCE)
async def exits(payload: Any) -> None:
    """Wants to end the whole process."""
    sys.exit("exits")


@handler("t.exits_thread", retry=_ONCE)
def exits_thread(payload: Any) -> None:
    """Wants to end the whole process, from a thread."""
    sys.exit("exits")


@handler("t.subtask", retry=_ONCE)
async def subtask(way: str) -> None:
    """Has something raise SystemExit or KeyboardInterrupt beside its own task."""

    async def interrupts() -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def leaves() -> None:
        await asyncio.sleep(0)
        sys.exit(2)

    loop = asyncio.get_running_loop()
    match way:
        case "wait_for":
            await asyncio.wait_for(leaves(), 5)
        case "gather":
            await asyncio.gather(interrupts(), asyncio.sleep(60), leaves())
        case "create_task":
            await asyncio.create_task(leaves())
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(interrupts())
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


@handler("t.subtask_process", retry=_ONCE, isolation="process")
async def subtask_in_process(way: str) -> None:
    """As `subtask`, in a process."""
    await subtask(way)


@handler("t.cancels_all", retry=_ONCE)
async def cancels_all(payload: Any, ctx: Context) -> bool:
    """Cancels all tasks but its own; returns whether it could cancel one that it started."""
    own = asyncio.create_task(asyncio.sleep(60))
    others = asyncio.all_tasks() - {asyncio.current_task(), own}
    for task in others:
        task.cancel()
    return own.cancel()


@handler("t.cancels_from_thread", retry=_ONCE)
async def cancels_from_thread(payload: Any, ctx: Context) -> None:
    """Cancels all tasks from a thread that does not belong to any attempt."""
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


@handler("t.awaits_all")
async def awaits_all(payload: Any, ctx: Context) -> None:
    """Waits for all tasks, in a way that cancels them when it is cancelled itself."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


@handler("t.stop_iteration", retry=_ONCE)
def stop_iteration(payload: Any) -> None:
    """Raises what no future takes."""
    next(iter(()))


class Unspeakable(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        """Fails."""
        raise LookupError


class Leaving(Exception):
    """Ends the process when it is asked what it is."""

    def __str__(self) -> str:
        """Exits."""
        raise SystemExit(3)


@handler("t.leaving", retry=_ONCE)
async def leaving(payload: Any) -> None:
    """Raises an exception whose text is a SystemExit."""
    raise Leaving


@handler("t.unspeakable", retry=_ONCE)
async def unspeakable(payload: Any) -> None:
    """Raises an exception that has no text."""
    raise Unspeakable


@handler("t.no_utf8", retry=_ONCE)
async def no_utf8(payload: bool, ctx: Context) -> None:
    """Names a file whose name UTF-8 cannot say, and fails, for good or not."""
    await ctx.progress(0.5, "reading \udcff.csv")
    message = "no such file: \udcff.csv"
    raise Fail(message, type="Miss\udcff") if payload else LookupError(message)


@handler("t.no_json", retry=_ONCE)
async def no_json(payload: Any) -> msgspec.Raw:
    """Returns what the database takes for no JSON."""
    return msgspec.Raw(b"[")


@handler("t.much_later")
async def much_later(payload: Any) -> None:
    """Asks for a retry beyond the end of every calendar."""
    raise Retry(after=timedelta.max)


@handler("t.deaf")
async def deaf(payload: Any, ctx: Context) -> None:
    """Emits for ever, whatever becomes of it."""
    while True:
        with suppress(Exception):
            await ctx.emit("still here")
        await asyncio.sleep(0.05)


@handler("t.talkative")
async def talkative(payload: Number, ctx: Context) -> None:
    """Emits as many pieces at once."""
    await asyncio.gather(*(ctx.emit(number) for number in range(payload.number)))


def handlers() -> Registry:
    """The handlers of the tests alone."""
    chosen = Registry()
    for registered in registry:
        if registered.spec.type.startswith("t."):
            chosen.add(registered)
    return chosen
