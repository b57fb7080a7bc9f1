"""Jobs that attack what they share with others: the loop, signals, children, descriptors."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

import psutil
from msgspec import Struct

from faults.ledger import VARIABLE, Ledger
from headrace_worker import Context, RetryPolicy, SyncContext, handler

LoopWay = Literal["wait_for", "gather", "group", "callback", "cancel", "text", "fork", "leave"]
Way = Literal["pool", "terminate", "leave", "fork", "exit"]
ApartWay = Literal[Way, "standard", "close"]

# After these a job succeeds.
HARMLESS: Final = frozenset({"cancel", "fork", "leave", "pool", "terminate", "standard"})

_ONCE = RetryPolicy(max_attempts=1)
_fork = multiprocessing.get_context("fork")


class InLoop(Struct, frozen=True, forbid_unknown_fields=True):
    """What an `async def` does in the loop of its worker."""

    way: LoopWay


class InThread(Struct, frozen=True, forbid_unknown_fields=True):
    """What a `def` does in a thread of its worker."""

    way: Way


class Apart(Struct, frozen=True, forbid_unknown_fields=True):
    """What a `def` does in a process of its own."""

    way: ApartWay


class Child(Struct, frozen=True):
    """A child process that a handler left."""

    pid: int
    create_time: float

    @property
    def runs(self) -> bool:
        """Whether it still runs."""
        try:
            process = psutil.Process(self.pid)
            started = process.create_time() == self.create_time
            return started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class _Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


@handler("rude.loop", retry=_ONCE)
async def in_loop(payload: InLoop, ctx: Context) -> list[Child]:
    """Attacks the loop."""
    _note(ctx)
    match payload.way:
        case "wait_for":
            await asyncio.wait_for(_exit(), 5)
        case "gather":
            await asyncio.gather(_interrupt(), _exit(), asyncio.sleep(60))
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(_exit())
                group.create_task(asyncio.sleep(60))
        case "callback":
            asyncio.get_running_loop().call_soon(sys.exit, 2)
            await asyncio.create_task(_exit())
        case "cancel":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        case "text":
            raise _Leaving
        case "fork":
            os.fork()
        case "leave":
            return [_forked()]
    return []


@handler("rude.thread", retry=_ONCE)
def in_thread(payload: InThread, ctx: SyncContext) -> list[Child]:
    """Starts children in a thread."""
    _note(ctx)
    return _start(payload.way)


@handler("rude.apart", retry=_ONCE, isolation="process")
def apart(payload: Apart, ctx: SyncContext) -> list[Child]:
    """Starts children in a process, or closes its descriptors."""
    _note(ctx)
    match payload.way:
        case "standard":
            os.closerange(0, 3)
        case "close":
            os.closerange(0, 256)
        case way:
            return _start(way)
    return []


def _start(way: Way) -> list[Child]:
    match way:
        case "pool":
            with _fork.Pool(2) as pool:
                mapped = pool.map(abs, [-1, -2])
            if mapped != [1, 2]:
                raise ValueError(f"the pool returned {mapped}")
        case "terminate":
            child = _fork.Process(target=signal.pause)
            child.start()
            child.terminate()
            child.join()
            if child.exitcode != -signal.SIGTERM:
                raise ValueError(f"the child exited with {child.exitcode}")
        case "leave":
            return [_forked(), _child(subprocess.Popen(["sleep", "600"]).pid)]
        case "fork":
            os.fork()
        case "exit":
            sys.exit(2)
    return []


def _forked() -> Child:
    child = _fork.Process(target=signal.pause)
    child.start()
    assert child.pid is not None
    return _child(child.pid)


def _child(pid: int) -> Child:
    return Child(pid=pid, create_time=psutil.Process(pid).create_time())


async def _exit() -> None:
    await asyncio.sleep(0)
    sys.exit(2)


async def _interrupt() -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


def _note(ctx: Context | SyncContext) -> None:
    # SQLite ties a connection to its thread.
    ledger = Ledger(Path(os.environ[VARIABLE]))
    ledger.append(str(ctx.attempt.job_id), ctx.attempt.number)
    ledger.close()
