"""The `succeeded` transition in a handler's transaction: RUNNING → SUCCEEDED.

The handler's connection calls the SQL function `complete`, in the schema of the tables.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Final

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.job import JsonText
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.transition import Transition, keyed_guard

# The SQLSTATE of `check_fence` and `complete` if the attempt is no longer running.
NOT_CURRENT: Final = "JF001"

_ARGUMENTS = "CAST({} AS uuid), CAST({} AS integer), CAST(CAST({} AS text) AS json)"


@cache
def _statement(*parameters: str) -> str:
    """Return the statement with the parameter syntax of a driver.

    A handler process inherits the environment of its worker, so both use the same schema.
    """
    return f"SELECT {Settings().database_schema}.complete({_ARGUMENTS.format(*parameters)})"


# The parameters for asyncpg, for SQLAlchemy, and for all other DB-API 2.0 drivers.
_ASYNCPG_PARAMETERS = ("$1", "$2", "$3")
_SQLALCHEMY_PARAMETERS = (":job", ":attempt", ":result")
_DBAPI_PARAMETERS = ("%s", "%s", "%s")


async def complete_attempt(connection: Any, key: AttemptKey, *, result: JsonText) -> None:
    """End an attempt as succeeded, in the open transaction of the caller's connection.

    Args:
        connection: an asyncpg connection, a SQLAlchemy AsyncConnection or AsyncSession, or a
            psycopg AsyncConnection, to the database that contains the job.
        key: the attempt.
        result: the result of the job.

    Raises:
        AttemptNotCurrent: the attempt is no longer running.
        TypeError: the type of the connection is not supported.
        ValueError: the connection has no open transaction.
        Exception: the driver reported an error.
    """
    values = (str(key.job_id), key.attempt, result)
    _check_transaction(connection)
    try:
        match _package(connection):
            case "asyncpg":
                await connection.execute(_statement(*_ASYNCPG_PARAMETERS), *values)
            case "sqlalchemy" if inspect.iscoroutinefunction(connection.execute):
                await connection.execute(
                    text(_statement(*_SQLALCHEMY_PARAMETERS)), _named_values(*values)
                )
            case "psycopg" if inspect.iscoroutinefunction(connection.execute):
                await connection.execute(_statement(*_DBAPI_PARAMETERS), values)
            case _:
                raise TypeError(
                    "complete_in takes an asyncpg connection, a SQLAlchemy AsyncConnection or "
                    f"AsyncSession, or a psycopg AsyncConnection, not {_class_name(connection)}"
                )
    except Exception as error:
        _raise_if_not_current(error, key)
        raise


def complete_attempt_sync(connection: Any, key: AttemptKey, *, result: JsonText) -> None:
    """End an attempt as succeeded on a blocking connection, like `complete_attempt`.

    Args:
        connection: a SQLAlchemy Connection or Session, or a DB-API 2.0 connection (psycopg,
            psycopg2, pg8000, Django).
        key, result: see `complete_attempt`.

    Raises:
        AttemptNotCurrent, TypeError, ValueError, Exception: as for `complete_attempt`.
    """
    values = (str(key.job_id), key.attempt, result)
    _check_transaction(connection)
    package = _package(connection)
    method = getattr(connection, "execute" if package == "sqlalchemy" else "cursor", None)
    if method is None or package == "asyncpg" or _is_async(connection):
        raise TypeError(
            "complete_in in a plain def takes a SQLAlchemy Connection or Session, or a DB-API 2.0 "
            f"connection, not {_class_name(connection)}"
        )
    try:
        if package == "sqlalchemy":
            method(text(_statement(*_SQLALCHEMY_PARAMETERS)), _named_values(*values))
            return
        cursor = method()
        try:
            cursor.execute(_statement(*_DBAPI_PARAMETERS), values)
        finally:
            cursor.close()
    except Exception as error:
        _raise_if_not_current(error, key)
        raise


async def was_completed(conn: Connection, key: AttemptKey) -> bool:
    """Return whether the attempt has succeeded. At most one attempt of a job can succeed."""
    return bool(await conn.execute(_HAS_SUCCEEDED, key._asdict()))


async def is_held_open(conn: Connection, key: AttemptKey) -> bool:
    """Return whether the attempt is running and an open transaction locks its row.

    The transaction may belong to the handler. The statement does not wait for locks.
    """
    return bool(await conn.execute(_IS_HELD_OPEN, key._asdict()))


def _named_values(job_id: str, attempt: int, result: JsonText) -> dict[str, Any]:
    return {"job": job_id, "attempt": attempt, "result": result}


def _package(connection: Any) -> str:
    """Return the package of a connection's class or base class; empty for other packages."""
    packages = [base.__module__.partition(".")[0] for base in type(connection).__mro__]
    return next((name for name in packages if name in {"asyncpg", "sqlalchemy", "psycopg"}), "")


def _is_async(connection: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(connection, "execute", None))


def _class_name(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"


def _check_transaction(connection: Any) -> None:
    """Raise ValueError if the connection commits each statement.

    With such a connection, the side effect and the end of the attempt would be two transactions.
    """
    is_in_transaction = getattr(connection, "is_in_transaction", None)
    if is_in_transaction is not None:
        commits_each = not is_in_transaction()
    else:
        # psycopg can have an open transaction in autocommit mode.
        status = getattr(getattr(connection, "info", None), "transaction_status", None)
        idle = status is None or int(status) == 0
        commits_each = getattr(connection, "autocommit", False) is True and idle
    if commits_each:
        raise ValueError("complete_in needs a connection with an open transaction")


def _raise_if_not_current(error: Exception, key: AttemptKey) -> None:
    """Raise AttemptNotCurrent if the database reports that the attempt is no longer running."""
    # `orig` is the driver's error in a SQLAlchemy error. The name of the code depends on the
    # driver.
    for one in (error, getattr(error, "orig", None)):
        for name in ("sqlstate", "pgcode"):
            if getattr(one, name, None) == NOT_CURRENT:
                raise AttemptNotCurrent(key) from error
        arguments = getattr(one, "args", None)
        # The argument of pg8000's errors is the server's message.
        if arguments and isinstance(arguments[0], dict) and arguments[0].get("C") == NOT_CURRENT:
            raise AttemptNotCurrent(key) from error


_HAS_SUCCEEDED = text("""
    SELECT 1 FROM jobs WHERE id = :job_id AND attempt = :attempt AND state = 'succeeded'
""")

_IS_HELD_OPEN = text(f"""
    SELECT 1 FROM jobs j
    WHERE j.id = :job_id AND j.attempt = :attempt AND {keyed_guard(EventType.SUCCEEDED)}
        AND NOT EXISTS (SELECT FROM jobs WHERE id = :job_id FOR NO KEY UPDATE SKIP LOCKED)
""")

# Part of the SQL function `complete`, whose arguments it reads. {tables} is the schema. The stack
# trace of an earlier error stays in the row. Readers ignore it if the row has no error.
_COMPLETE = Transition(
    name="ended",
    events=(EventType.SUCCEEDED,),
    rows="j.id = complete.job AND j.attempt = complete.attempt AND $guard",
    changes={
        "result": "coalesce(complete.result, 'null')",
        "error": "NULL",
        "end_time": "clock_timestamp()",
    },
    result=None,
    schema="{tables}.",
)

# The body of the function. A change needs a migration; a test compares this body with the migrated
# function.
COMPLETE_BODY: Final = f"""
BEGIN
    {_COMPLETE.sql};
    IF NOT FOUND THEN
        RAISE EXCEPTION 'attempt % of job % is not running',
            complete.attempt, complete.job
            USING ERRCODE = '{NOT_CURRENT}', HINT = 'Roll back: another attempt may be running.';
    END IF;
    -- At the commit, to the gateways (wake/topic.py), and to those of earlier versions.
    PERFORM pg_notify('headrace_events', ''),
        pg_notify('headrace_events_' || replace(i.id::text, '-', ''), '')
    FROM {{tables}}.installation i;
END
"""
