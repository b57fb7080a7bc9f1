"""The session, exit codes and time limits that all commands share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

import headrace
from headrace.cli.connection import Options, connection
from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace import Client


@dataclass(frozen=True, slots=True)
class Session:
    """The global options of a command.

    Args:
        options: the global options of the connection.
        output: writes data and messages.
    """

    options: Options
    output: Output

    def client(self) -> Client:
        """Return a client, to use in `async with`.

        Raises:
            UsageError: an option, a setting or the configuration is not valid.
        """
        return connection(self.options).client()


# The app passes the session to each command parameter of this type.
Injected: TypeAlias = Annotated[Session, Parameter(parse=False)]


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    # A job failed or was cancelled, or the server could not complete the call.
    FAILED = 1
    # The command line or the request is not valid.
    USAGE = 2
    NOT_FOUND = 3
    # The credential is not valid, or lacks a right.
    DENIED = 4
    UNAVAILABLE = 5
    # The exit code of the command `timeout`.
    TIMED_OUT = 124
    # The codes that shells use: 128 + SIGINT, 128 + SIGPIPE.
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def exit_code_for(error: Exception) -> Exit:
    """Return the exit code for an error."""
    match error:
        case TimeoutError():
            return Exit.TIMED_OUT
        case headrace.Unavailable():
            return Exit.UNAVAILABLE
        case headrace.JobNotFound() | headrace.SubscriptionNotFound() | headrace.AccessNotFound():
            return Exit.NOT_FOUND
        case headrace.Unauthenticated() | headrace.PermissionDenied():
            return Exit.DENIED
        case (
            headrace.InvalidRequest()
            | headrace.InsecureConnection()
            | headrace.RequestIdConflict()
            | headrace.SubscriptionConflict()
            | headrace.AccessConflict()
            | headrace.CursorExpired()
        ):
            return Exit.USAGE
        case _:
            return Exit.FAILED


@asynccontextmanager
async def time_limit(limit: timedelta | None, message: str) -> AsyncGenerator[None, None]:
    """Cancel the block after `limit`; None for no limit.

    Raises:
        TimeoutError: the limit was reached; contains `message`.
    """
    seconds = limit.total_seconds() if limit is not None else None
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError as error:
        # The TimeoutError of a single call's deadline keeps its own message.
        if scope.expired():
            raise TimeoutError(message) from error
        raise
