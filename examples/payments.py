"""A handler that commits its effect and the end of its job in one transaction.

    HEADRACE_HANDLERS=payments PYTHONPATH=examples headrace up

The handler moves money between two rows of a table in the jobs database:

    CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));

The money is moved exactly once, even if the worker dies at any moment.
"""

from __future__ import annotations

import os
from typing import Annotated

import asyncpg
from msgspec import Meta, Struct

from headrace_worker import Context, Fail, RetryPolicy, handler


class Payment(Struct, frozen=True, forbid_unknown_fields=True):
    """The payer, the payee and the amount."""

    payer: str
    payee: str
    amount: Annotated[int, Meta(gt=0)]


@handler("pay", timeout=30, retry=RetryPolicy(max_attempts=5))
async def pay(payload: Payment, ctx: Context) -> None:
    """Move money from one account to another."""
    connection = await asyncpg.connect(os.environ["HEADRACE_DATABASE_URL"], timeout=ctx.time_left)
    try:
        async with connection.transaction():
            # Update accounts in name order, so that two payments cannot deadlock.
            for name in sorted((payload.payer, payload.payee)):
                change = payload.amount if name == payload.payee else -payload.amount
                done = await connection.execute(
                    "UPDATE accounts SET balance = balance + $1 WHERE name = $2", change, name
                )
                if done != "UPDATE 1":
                    raise Fail(f"account {name!r} does not exist", type="NoAccount")
            # The commit also ends the job.
            await ctx.complete_in(connection, {"paid": payload.amount})
    except asyncpg.CheckViolationError as error:
        raise Fail(
            f"account {payload.payer!r} has a balance below {payload.amount}", type="TooLittle"
        ) from error
    finally:
        await connection.close(timeout=5)
