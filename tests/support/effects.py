"""Handlers that write to their own table and complete their jobs in the same transaction.

They are in a module that separate processes can import.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from datetime import timedelta

import asyncpg
import msgspec
import psycopg

from headrace_worker import Context, RetryPolicy, SyncContext
from headrace_worker.api.registry import Registry, handler, registry

CREATE_EFFECTS = (
    "CREATE TABLE effects (job_id uuid, attempt integer, PRIMARY KEY (job_id, attempt))"
)

_TWO_ATTEMPTS = RetryPolicy(max_attempts=2, initial_backoff=timedelta(), max_backoff=timedelta())


class Effect(msgspec.Struct):
    """The instructions for a handler.

    Attributes:
        url: the URL of the database.
        commit: commit the transaction.
        fail: raise an exception afterwards.
        hang: never return.
        report: emit output after the completion.
        twice: complete a second time.
        size: the result size in characters.
    """

    url: str
    commit: bool = True
    fail: bool = False
    hang: bool = False
    report: bool = False
    twice: bool = False
    size: int = 1


@handler("e.loop", retry=_TWO_ATTEMPTS)
async def loop(payload: Effect, ctx: Context) -> str:
    """Complete in the worker's event loop, with asyncpg."""
    return await _complete_with_asyncpg(payload, ctx)


@handler("e.process_loop", retry=_TWO_ATTEMPTS, isolation="process")
async def process_loop(payload: Effect, ctx: Context) -> str:
    """Complete in the event loop of a separate process, with asyncpg."""
    return await _complete_with_asyncpg(payload, ctx)


async def _complete_with_asyncpg(payload: Effect, ctx: Context) -> str:
    connection = await asyncpg.connect(payload.url, timeout=60)
    try:
        await ctx.progress(0.5, "half")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO effects VALUES ($1, $2)", ctx.attempt.job_id, ctx.fence
        )
        await ctx.complete_in(connection, "x" * payload.size)
        if payload.twice:
            await ctx.complete_in(connection, "again")
        if payload.report:
            await ctx.emit("too late")
        if payload.commit:
            await transaction.commit()
        if payload.hang:
            await asyncio.get_running_loop().create_future()
    finally:
        connection.terminate()
    if payload.fail:
        raise LookupError("afterwards")
    return "ignored"


def _complete_with_psycopg(payload: Effect, ctx: SyncContext) -> str:
    ctx.progress(0.5, "half")
    with psycopg.connect(payload.url) as connection:
        connection.execute("INSERT INTO effects VALUES (%s, %s)", (ctx.attempt.job_id, ctx.fence))
        ctx.complete_in(connection, "x" * payload.size)
        if payload.twice:
            ctx.complete_in(connection, "again")
        if payload.report:
            ctx.emit("too late")
        if payload.commit:
            connection.commit()
        else:
            connection.rollback()
    while payload.hang:
        ctx.raise_if_cancelled()
        time.sleep(0.01)
    if payload.fail:
        raise LookupError("afterwards")
    return "ignored"


@handler("e.thread", retry=_TWO_ATTEMPTS)
def thread(payload: Effect, ctx: SyncContext) -> str:
    """Complete in a thread, with psycopg."""
    return _complete_with_psycopg(payload, ctx)


@handler("e.process", retry=_TWO_ATTEMPTS, isolation="process")
def process(payload: Effect, ctx: SyncContext) -> str:
    """Complete in a process, with psycopg."""
    return _complete_with_psycopg(payload, ctx)


@handler("e.hold_transaction")
def hold_transaction(payload: Effect, ctx: SyncContext) -> None:
    """Keep the transaction open until its connection ends, and ignore cancellation."""
    with suppress(psycopg.OperationalError), psycopg.connect(payload.url) as connection:
        ctx.complete_in(connection, "late")
        connection.execute("SELECT pg_sleep(600)")


@handler("e.slow", timeout=60)
async def slow(payload: Effect, ctx: Context) -> None:
    """Sleep between the effect, the completion, the commit and the return."""
    connection = await asyncpg.connect(payload.url, timeout=60)
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO effects VALUES ($1, $2)", ctx.attempt.job_id, ctx.fence
            )
            await asyncio.sleep(random.uniform(0, 0.2))
            await ctx.complete_in(connection, ctx.fence)
            await asyncio.sleep(random.uniform(0, 0.2))
        await asyncio.sleep(random.uniform(0, 0.1))
    finally:
        connection.terminate()


@handler("e.time_left", timeout=30)
async def time_left(payload: Effect, ctx: Context) -> list[float]:
    """Return `ctx.time_left` as measured before and after a pause."""
    before = ctx.time_left
    await asyncio.sleep(0.05)
    return [before, ctx.time_left]


def _measure(ctx: SyncContext) -> list[float]:
    before = ctx.time_left
    time.sleep(0.05)
    return [before, ctx.time_left]


@handler("e.thread_time_left", timeout=30)
def thread_time_left(payload: Effect, ctx: SyncContext) -> list[float]:
    """Run `time_left` in a thread."""
    return _measure(ctx)


@handler("e.process_time_left", timeout=30, isolation="process")
def process_time_left(payload: Effect, ctx: SyncContext) -> list[float]:
    """Run `time_left` in a process."""
    return _measure(ctx)


def effect_handlers() -> Registry:
    """Return the handlers of this module."""
    module_handlers = Registry()
    for registered in registry:
        if registered.spec.type.startswith("e."):
            module_handlers.add(registered)
    return module_handlers
