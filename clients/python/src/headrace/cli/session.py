"""The session, exit codes and time limits that all commands share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter

import headrace
from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace import Client

# Fewer retries than in a program, because a user is waiting and can repeat the command.
_MAX_RETRIES: Final = 2


class UsageError(Exception):
    """The command line is not valid."""


@dataclass(frozen=True, slots=True)
class Session:
    """The global options of a command.

    Args:
        target: the address of the gateway, or several addresses separated by commas. None: the
            default.
        output: writes data and messages.
    """

    target: str | None
    output: Output

    def client(self) -> Client:
        """Return a client, to use in `async with`."""
        # Without this, gRPC would log lost connections to the terminal. gRPC reads the variable
        # when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            return headrace.Client(self.target, retries=_MAX_RETRIES)
        except ValueError as error:
            raise UsageError(str(error)) from error


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
        case headrace.JobNotFound() | headrace.SubscriptionNotFound():
            return Exit.NOT_FOUND
        case (
            headrace.InvalidRequest()
            | headrace.RequestIdConflict()
            | headrace.SubscriptionConflict()
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
