"""A handler whose effect and whose job's end are one transaction.

    HEADRACE_HANDLERS=payments PYTHONPATH=examples headrace up

It moves money between two rows of a table that lies in the database of the jobs:

    CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));

However often its worker dies, and in whichever moment, the money is moved once.
"""

from __future__ import annotations

import os
from typing import Annotated

import asyncpg
from msgspec import Meta, Struct

from headrace_worker import Context, Fail, RetryPolicy, handler


class Payment(Struct, frozen=True, forbid_unknown_fields=True):
    """Who pays whom, and how much."""

    payer: str
    payee: str
    amount: Annotated[int, Meta(gt=0)]


@handler("pay", timeout=30, retry=RetryPolicy(max_attempts=5))
async def pay(payload: Payment, ctx: Context) -> None:
    """Moves money from one account to another."""
    connection = await asyncpg.connect(os.environ["HEADRACE_DATABASE_URL"], timeout=ctx.time_left)
    try:
        async with connection.transaction():
            # In the order of their names, so that two payments never wait for each other.
            for name in sorted((payload.payer, payload.payee)):
                change = payload.amount if name == payload.payee else -payload.amount
                done = await connection.execute(
                    "UPDATE accounts SET balance = balance + $1 WHERE name = $2", change, name
                )
                if done != "UPDATE 1":
                    raise Fail(f"there is no account {name!r}", type="NoAccount")
            # The commit is the end of the job as well.
            await ctx.complete_in(connection, {"paid": payload.amount})
    except asyncpg.CheckViolationError as error:
        raise Fail(f"{payload.payer!r} has too little", type="TooLittle") from error
    finally:
        await connection.close(timeout=5)
