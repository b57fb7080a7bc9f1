"""Handlers that write into a table of their own and finish their jobs in the same transaction.

They stand in a module of their own so that a process can import it.
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

CREATE = "CREATE TABLE effects (job_id uuid, attempt integer, PRIMARY KEY (job_id, attempt))"

_TWICE = RetryPolicy(max_attempts=2, initial_backoff=timedelta(), max_backoff=timedelta())


class Effect(msgspec.Struct):
    """What to do.

    `url` is the database's; `commit` says whether to; `fail` raises afterwards, `hang` never
    returns; `size` is that of the result, `report` emits something behind it, `twice` completes
    again.
    """

    url: str
    commit: bool = True
    fail: bool = False
    hang: bool = False
    report: bool = False
    twice: bool = False
    size: int = 1


@handler("e.loop", retry=_TWICE)
async def loop(payload: Effect, ctx: Context) -> str:
    """In the loop, with asyncpg."""
    return await _in_loop(payload, ctx)


@handler("e.process_loop", retry=_TWICE, isolation="process")
async def process_loop(payload: Effect, ctx: Context) -> str:
    """In the loop of a process."""
    return await _in_loop(payload, ctx)


async def _in_loop(payload: Effect, ctx: Context) -> str:
    connection = await asyncpg.connect(payload.url, timeout=10)
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


def _plain(payload: Effect, ctx: SyncContext) -> str:
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


@handler("e.thread", retry=_TWICE)
def thread(payload: Effect, ctx: SyncContext) -> str:
    """In a thread, with psycopg."""
    return _plain(payload, ctx)


@handler("e.process", retry=_TWICE, isolation="process")
def process(payload: Effect, ctx: SyncContext) -> str:
    """In a process, with psycopg."""
    return _plain(payload, ctx)


@handler("e.never_ends")
def never_ends(payload: Effect, ctx: SyncContext) -> None:
    """Holds its transaction open, whatever it is told, until its connection is ended."""
    with suppress(psycopg.OperationalError), psycopg.connect(payload.url) as connection:
        ctx.complete_in(connection, "late")
        connection.execute("SELECT pg_sleep(600)")


@handler("e.slow", timeout=60)
async def slow(payload: Effect, ctx: Context) -> None:
    """Takes its time before, between and after its effect, its completion and its commit."""
    connection = await asyncpg.connect(payload.url, timeout=10)
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
    """How long it has, before and after a moment."""
    before = ctx.time_left
    await asyncio.sleep(0.05)
    return [before, ctx.time_left]


def _measure(ctx: SyncContext) -> list[float]:
    before = ctx.time_left
    time.sleep(0.05)
    return [before, ctx.time_left]


@handler("e.thread_time_left", timeout=30)
def thread_time_left(payload: Effect, ctx: SyncContext) -> list[float]:
    """The same in a thread."""
    return _measure(ctx)


@handler("e.process_time_left", timeout=30, isolation="process")
def process_time_left(payload: Effect, ctx: SyncContext) -> list[float]:
    """The same in a process."""
    return _measure(ctx)


def effect_handlers() -> Registry:
    """The handlers of this module."""
    chosen = Registry()
    for registered in registry:
        if registered.spec.type.startswith("e."):
            chosen.add(registered)
    return chosen
