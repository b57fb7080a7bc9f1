"""The errors of the domain.

HeadraceError
├── InvalidRequest            what was asked is malformed; lists every violation
│   ├── PayloadInvalid        the payload breaks its handler's schema
│   ├── PageTokenInvalid
│   └── CursorInvalid
├── JobNotFound
├── RequestIdConflict         an idempotency key was used for another content
├── StateConflict             the job is in a state that does not allow it
├── AttemptNotCurrent         the attempt is no longer running
├── LimitExceeded             a size, a count or a depth is beyond its limit
│   ├── DocumentTooDeep
│   └── TooManySubscriptions  the tenant has as many as it may
├── CursorExpired             what the cursor stands before is not kept any more
├── SlowConsumer              the reader of a stream stayed away
├── SubscriptionNotFound
├── SubscriptionConflict      the name has another filter
├── SubscriptionTaken         another watch receives the subscription
├── StaleTerm                 a scheduler's term is over
├── Unavailable               a server that is needed is gone; trying again may help
└── ShuttingDown
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import JobState


class HeadraceError(Exception):
    """The root of the tree."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field: its path (`job.retry_policy.jitter`) and what it must be."""

    field: str
    description: str


class InvalidRequest(HeadraceError):
    """What was asked is malformed."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class PayloadInvalid(InvalidRequest):
    """The payload breaks the JSON Schema of its handler."""

    def __init__(self, job_type: str, violations: Sequence[Violation]) -> None:
        super().__init__(violations)
        self.job_type = job_type


class PageTokenInvalid(InvalidRequest):
    """A page token that is malformed or belongs to another filter."""

    def __init__(self) -> None:
        super().__init__(
            [Violation("page_token", "must be the next_page_token of a page of the same filter")]
        )


class CursorInvalid(InvalidRequest):
    """A cursor that is malformed or belongs to another database."""

    def __init__(self) -> None:
        super().__init__([Violation("cursor", "must be a cursor that this system has sent")])


class JobNotFound(HeadraceError):
    """No such job, for this tenant."""

    def __init__(self, job_id: JobId) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} does not exist")


class RequestIdConflict(HeadraceError):
    """The idempotency key was used for another content. `job_id` or `batch_id` has it."""

    def __init__(self, request_id: str, *, kind: str, existing_id: str) -> None:
        self.request_id = request_id
        self.kind = kind
        self.existing_id = existing_id
        super().__init__(
            f"request_id {request_id!r} was used for {kind} {existing_id} with another content; "
            "send a new request_id for a new content"
        )


class StateConflict(HeadraceError):
    """The job is in a state that does not allow what was asked."""

    def __init__(
        self, job_id: JobId, *, action: str, state: JobState, allowed: Sequence[JobState]
    ) -> None:
        self.job_id = job_id
        self.action = action
        self.state = state
        self.allowed = tuple(allowed)
        names = " or ".join(s.name for s in self.allowed)
        super().__init__(f"job {job_id} is {state.name}; to {action} it, it must be {names}")


class AttemptNotCurrent(HeadraceError):
    """The attempt is no longer running: its job has ended, or has a later attempt."""

    def __init__(self, key: AttemptKey) -> None:
        self.job_id, self.attempt = key
        super().__init__(f"attempt {key.attempt} of job {key.job_id} is no longer running")


class LimitExceeded(HeadraceError):
    """A size, a count or a depth is beyond its limit.

    `limit` is the setting that has the limit, or the name of one that cannot be set.
    """

    def __init__(self, field: str, *, limit: str, maximum: int, actual: int, unit: str) -> None:
        self.field = field
        self.limit = limit
        self.maximum = maximum
        self.actual = actual
        super().__init__(f"{field} has {actual} {unit}; at most {maximum} are allowed ({limit})")


class DocumentTooDeep(LimitExceeded):
    """A JSON document has more levels of objects and lists than `maximum`."""

    def __init__(self, field: str, *, depth: int, maximum: int) -> None:
        super().__init__(
            field, limit="nesting depth", maximum=maximum, actual=depth, unit="levels of nesting"
        )


class TooManySubscriptions(LimitExceeded):
    """The tenant has as many subscriptions as it may; one has to be deleted first."""

    def __init__(self, maximum: int, *, actual: int) -> None:
        super().__init__(
            "tenant",
            limit="HEADRACE_MAX_SUBSCRIPTIONS",
            maximum=maximum,
            actual=actual,
            unit="subscriptions",
        )


class CursorExpired(HeadraceError):
    """Events behind the cursor were pruned. `oldest_cursor` is the first one that can be used."""

    def __init__(self, oldest_cursor: str) -> None:
        self.oldest_cursor = oldest_cursor
        super().__init__(
            "events behind this cursor are not kept any more; go on from oldest_cursor, "
            "and read again what must not be missed"
        )


class SlowConsumer(HeadraceError):
    """A reader has taken nothing for too long.

    `place` says how to resume: the field of a request (`cursor`, `after_seq`) and its value.
    """

    def __init__(self, patience: float, place: tuple[str, str]) -> None:
        self.place = place
        super().__init__(
            f"the stream was not read for {patience:g} s; resume it where it stopped, "
            f"with the {place[0]} of this error"
        )


class SubscriptionNotFound(HeadraceError):
    """No such subscription, for this tenant."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"subscription {name!r} does not exist; create it first")


class SubscriptionConflict(HeadraceError):
    """The name belongs to a subscription with another filter."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"subscription {name!r} has another filter; choose another name, or delete it first"
        )


class SubscriptionTaken(HeadraceError):
    """Another consumer has taken over, or a newer watch of the same one.

    What another consumer has taken over cannot be acknowledged any more.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"another watch receives subscription {name!r} now; watch it again")


class StaleTerm(HeadraceError):
    """What a scheduler would have written was refused: its term is over."""

    def __init__(self, term: int) -> None:
        self.term = term
        super().__init__(f"term {term} is over")


class Unavailable(HeadraceError):
    """`dependency` (postgresql, redis) cannot be used now."""

    def __init__(self, dependency: str) -> None:
        self.dependency = dependency
        super().__init__(f"{dependency} is not available; try again")

    @property
    def cause(self) -> str:
        """What its driver says, for the log: that a disk is full, or a password is wrong.

        It is the first line: the others may quote rows, and rows hold payloads.
        """
        cause = self.__cause__
        if cause is None:
            return ""
        return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"


class ShuttingDown(HeadraceError):
    """The process that was asked shuts down."""

    def __init__(self) -> None:
        super().__init__("this gateway shuts down; go on at another one, or here in a moment")
