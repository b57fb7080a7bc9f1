"""The exceptions that a handler can raise to control how its attempt ends."""

from __future__ import annotations

from datetime import timedelta

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.limits import MAX_BACKOFF


class Retry(Exception):
    """Retry the job if it has retries left.

    Args:
        message: the reason, for readers of the job.
        after: the minimum wait, in seconds or as a timedelta, to which the random part of the job's
            backoff is added; None to use only the backoff.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: `after` is NaN.
    """

    # The default for subclasses that do not call `__init__`.
    after: timedelta | None = None

    def __init__(self, message: str = "", *, after: float | timedelta | None = None) -> None:
        _check_text("Retry", "message", message)
        super().__init__(message or "the handler requested a retry")
        self.after = _as_wait(after)

    @property
    def wait(self) -> timedelta | None:
        """The valid wait closest to `after`, which a subclass may set to any value."""
        try:
            wait = _as_wait(self.after)
        except (TypeError, ValueError):
            return None
        return None if wait is None else min(max(wait, timedelta()), MAX_BACKOFF)


class Fail(Exception):
    """Fail the job without a retry.

    Args:
        message: the reason, for readers of the job.
        type: the type of the job's error.

    Raises:
        TypeError: an argument is not a string.
    """

    # The default for subclasses that do not call `__init__`.
    type: str = "Fail"

    def __init__(self, message: str, *, type: str = "Fail") -> None:  # noqa: A002
        _check_text("Fail", "message", message)
        _check_text("Fail", "type", type)
        super().__init__(message)
        self.type = type


class InvalidPayload(ValueError):
    """Reject the payload in a Struct's `__post_init__` or in a pydantic validator.

    The job's error contains this message. State the rule, but not the value. The messages of other
    exceptions are omitted, because they could quote the payload.
    """


def _check_text(error: str, argument: str, value: object) -> None:
    if not isinstance(value, str):
        # The value could be a payload, so the message omits it.
        raise TypeError(f"{argument} of {error} must be a str, not {type(value).__name__}")


def _as_wait(after: float | timedelta | None) -> timedelta | None:
    if after is None or isinstance(after, timedelta):
        return after
    if not isinstance(after, int | float) or isinstance(after, bool):
        raise TypeError(
            f"after of Retry must be seconds or a timedelta, not {type(after).__name__}"
        )
    try:
        return timedelta(seconds=after)
    except OverflowError:
        # The worker limits the wait.
        return timedelta.max if after > 0 else timedelta()


class SizeExceeded(Fail):
    """A result or a piece of output exceeds its limit.

    Args:
        what: the subject of the error message, such as "the result".
        size, limit: the actual size and the limit, in bytes.
        setting: the setting that contains the limit.
    """

    def __init__(self, what: str, *, size: int, limit: int, setting: str) -> None:
        super().__init__(
            f"{what} has {size} bytes; at most {limit} are allowed ({setting})",
            type="LimitExceeded",
        )


class InvalidProgress(Fail, ValueError):
    """The handler passed a value to `ctx.progress` that Headrace cannot store.

    `ctx.progress` raises this error. The job is not retried: the next attempt would report the
    same value.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, type="InvalidProgress")


class NotCommitted(Exception):
    """The handler called `complete_in` and returned without committing its transaction."""

    def __init__(self) -> None:
        super().__init__(
            "the handler called complete_in and returned without committing its transaction"
        )


class AlreadyCompleted(AttemptNotCurrent):
    """The handler called `complete_in` twice, and the first call has ended the attempt."""

    def __init__(self, key: AttemptKey) -> None:
        super().__init__(key)
        message = (
            f"complete_in was already called for attempt {key.attempt} of job {key.job_id}, which "
            "has ended; call it once, as the last statement before the commit"
        )
        self.args = (message,)


class Stopped(Exception):
    """The handler stopped early because the worker requested it (`ctx.cancelled`).

    The worker knows the reason, so it decides how the attempt ends: cancelled, timed out, or
    interrupted by a drain.
    """

    def __init__(self, message: str = "the handler stopped because the worker asked it to") -> None:
        super().__init__(message)
