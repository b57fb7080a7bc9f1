"""What a handler may raise to say how its attempt ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import AttemptNotCurrent

# The maximum that a submitter may set. A longer wait could exceed the range of dates.
MAX_BACKOFF: Final = timedelta(days=7)


class Retry(Exception):
    """Try again, as long as the job has retries left.

    Args:
        message: why, for the people who look at the job.
        after: how long to wait at least, seconds or a timedelta; the random share of the job's
            backoff comes on top. None leaves it to the backoff.

    Raises:
        TypeError: an argument has another type.
        ValueError: `after` is NaN.
    """

    # For a subclass that does not call `__init__`.
    after: timedelta | None = None

    def __init__(self, message: str = "", *, after: float | timedelta | None = None) -> None:
        _check_text("Retry", "message", message)
        super().__init__(message or "the handler asked for a retry")
        self.after = _as_wait(after)

    @property
    def wait(self) -> timedelta | None:
        """The permitted wait that is nearest to `after`, which a subclass may set to anything."""
        try:
            asked = _as_wait(self.after)
        except (TypeError, ValueError):
            return None
        return None if asked is None else min(max(asked, timedelta()), MAX_BACKOFF)


class Fail(Exception):
    """Fail the job now; trying again could not help.

    Args:
        message: why, for the people who look at the job.
        type: the kind of error that the job shows.

    Raises:
        TypeError: an argument is not a string.
    """

    # For a subclass that does not call `__init__`.
    type: str = "Fail"

    def __init__(self, message: str, *, type: str = "Fail") -> None:  # noqa: A002
        _check_text("Fail", "message", message)
        _check_text("Fail", "type", type)
        super().__init__(message)
        self.type = type


class InvalidPayload(ValueError):
    """Refuse the payload, from `__post_init__` of a Struct or a validator of a pydantic model.

    The job shows the message, where it shows only the names of other exceptions: those could quote
    the payload. So the message states the rule and not the value.
    """


def _check_text(error: str, argument: str, value: object) -> None:
    if not isinstance(value, str):
        # Without the value, which may be a payload.
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
    """What the handler has to say is larger than a setting allows.

    Args:
        what: what it is, as in "the result".
        size, limit: in bytes.
        setting: the setting's name.
    """

    def __init__(self, what: str, *, size: int, limit: int, setting: str) -> None:
        super().__init__(
            f"{what} has {size} bytes; at most {limit} are allowed ({setting})",
            type="LimitExceeded",
        )


class InvalidProgress(Fail, ValueError):
    """A handler passed `ctx.progress` a value that Headrace cannot store.

    It is raised in the handler's own stack. A handler that does not catch it has failed: the next
    attempt would report the same.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, type="InvalidProgress")


class NotCommitted(Exception):
    """The handler returned, and the transaction in which it finished its job was not committed."""

    def __init__(self) -> None:
        super().__init__(
            "the handler has called complete_in, and returned without a commit of its transaction"
        )


class AlreadyCompleted(AttemptNotCurrent):
    """`complete_in` was called before, and its attempt has ended since."""

    def __init__(self, key: AttemptKey) -> None:
        super().__init__(key)
        message = (
            f"complete_in was called before for attempt {key.attempt} of job {key.job_id}, which "
            "has ended; call it once, as the last statement before the commit"
        )
        self.args = (message,)


class Stopped(Exception):
    """The handler has stopped before its end because it was asked to (`ctx.cancelled`).

    The worker knows why it asked, so it says how the attempt ends: as cancelled, as timed out, or
    as interrupted when the worker drains.
    """

    def __init__(self, message: str = "the handler stopped as it was asked to") -> None:
        super().__init__(message)
