"""The exit codes."""

from __future__ import annotations

from enum import IntEnum

import headrace


class Exit(IntEnum):
    """What the command's end says."""

    OK = 0
    # A job failed or was cancelled, or the server could not do what was asked.
    FAILED = 1
    # The command line or the request is not valid.
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 5
    # As `timeout` has it.
    TIMED_OUT = 124
    # As shells have it: 128 + SIGINT, 128 + SIGPIPE.
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def exit_for(error: Exception) -> Exit:
    """The exit code for an error."""
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
