"""Jobs that attack shared resources: event loop, signals, child processes and file descriptors."""

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

from faults.ledger import LEDGER_VARIABLE, Ledger
from headrace_worker import Context, RetryPolicy, SyncContext, handler

LoopAttack = Literal["wait_for", "gather", "group", "callback", "cancel", "text", "fork", "leave"]
Attack = Literal["pool", "terminate", "leave", "fork", "exit"]
ProcessAttack = Literal[Attack, "standard", "close"]

# The attacks after which the job succeeds.
HARMLESS: Final = frozenset({"cancel", "fork", "leave", "pool", "terminate", "standard"})

_ONE_ATTEMPT = RetryPolicy(max_attempts=1)
_FORK = multiprocessing.get_context("fork")


class InLoop(Struct, frozen=True, forbid_unknown_fields=True):
    """The attack by an `async def` handler in the worker's event loop."""

    attack: LoopAttack


class InThread(Struct, frozen=True, forbid_unknown_fields=True):
    """The attack by a `def` handler in a worker thread."""

    attack: Attack


class InProcess(Struct, frozen=True, forbid_unknown_fields=True):
    """The attack by a `def` handler in its own process."""

    attack: ProcessAttack


class Child(Struct, frozen=True):
    """A child process that a handler left running."""

    pid: int
    create_time: float

    @property
    def is_running(self) -> bool:
        """True while the child is running."""
        try:
            process = psutil.Process(self.pid)
            started = process.create_time() == self.create_time
            return started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class _ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


@handler("misbehaving.loop", retry=_ONE_ATTEMPT)
async def in_loop(payload: InLoop, ctx: Context) -> list[Child]:
    """Attack the event loop."""
    _record_start(ctx)
    match payload.attack:
        case "wait_for":
            await asyncio.wait_for(_exit_later(), 5)
        case "gather":
            await asyncio.gather(_interrupt_later(), _exit_later(), asyncio.sleep(60))
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(_exit_later())
                group.create_task(asyncio.sleep(60))
        case "callback":
            asyncio.get_running_loop().call_soon(sys.exit, 2)
            await asyncio.create_task(_exit_later())
        case "cancel":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        case "text":
            raise _ExitingText
        case "fork":
            os.fork()
        case "leave":
            return [_leave_forked_child()]
    return []


@handler("misbehaving.thread", retry=_ONE_ATTEMPT)
def in_thread(payload: InThread, ctx: SyncContext) -> list[Child]:
    """Start children in a thread."""
    _record_start(ctx)
    return _attack_with_children(payload.attack)


@handler("misbehaving.process", retry=_ONE_ATTEMPT, isolation="process")
def in_process(payload: InProcess, ctx: SyncContext) -> list[Child]:
    """Start children in a process, or close its file descriptors."""
    _record_start(ctx)
    match payload.attack:
        case "standard":
            os.closerange(0, 3)
        case "close":
            os.closerange(0, 256)
        case attack:
            return _attack_with_children(attack)
    return []


def _attack_with_children(attack: Attack) -> list[Child]:
    match attack:
        case "pool":
            with _FORK.Pool(2) as pool:
                mapped = pool.map(abs, [-1, -2])
            if mapped != [1, 2]:
                raise ValueError(f"the pool returned {mapped}")
        case "terminate":
            child = _FORK.Process(target=signal.pause)
            child.start()
            child.terminate()
            child.join()
            if child.exitcode != -signal.SIGTERM:
                raise ValueError(f"the child exited with {child.exitcode}")
        case "leave":
            return [_leave_forked_child(), _describe_child(subprocess.Popen(["sleep", "600"]).pid)]
        case "fork":
            os.fork()
        case "exit":
            sys.exit(2)
    return []


def _leave_forked_child() -> Child:
    child = _FORK.Process(target=signal.pause)
    child.start()
    assert child.pid is not None
    return _describe_child(child.pid)


def _describe_child(pid: int) -> Child:
    return Child(pid=pid, create_time=psutil.Process(pid).create_time())


async def _exit_later() -> None:
    await asyncio.sleep(0)
    sys.exit(2)


async def _interrupt_later() -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


def _record_start(ctx: Context | SyncContext) -> None:
    # A SQLite connection belongs to one thread, so none is shared.
    ledger = Ledger(Path(os.environ[LEDGER_VARIABLE]))
    ledger.append(str(ctx.attempt.job_id), ctx.attempt.number)
    ledger.close()
