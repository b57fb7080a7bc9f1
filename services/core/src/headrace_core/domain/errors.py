"""Domain errors.

HeadraceError
├── InvalidRequest            the request is malformed; lists every violation
│   ├── PayloadInvalid        the payload does not match the schema of its handler
│   ├── PageTokenInvalid
│   └── CursorInvalid
├── JobNotFound
├── RequestIdConflict         the idempotency key was used for different content
├── StateConflict             the job's state does not allow the action
├── AttemptNotCurrent         the attempt is no longer running
├── LimitExceeded             a size, a count or a depth exceeds its limit
│   ├── DocumentTooDeep
│   └── TooManySubscriptions  the tenant already has the maximum number of subscriptions
├── CursorExpired             events after the cursor were pruned
├── SlowConsumer              the reader of a stream stopped reading
├── SubscriptionNotFound
├── SubscriptionConflict      the subscription has a different filter
├── SubscriptionTaken         another watch has taken over the subscription
├── StaleTerm                 the scheduler's term is over
├── Unauthenticated           the credential is missing, malformed, expired or revoked
│   ├── CredentialChanged     a stream ended because its credential expired or changed
│   ├── LoginRejected         the user name or the password is wrong
│   └── SessionEnded          the session of a user has ended
├── LoginThrottled            too many logins have failed or are waiting
├── TokensThrottled           too many tokens of an address were rejected
├── PermissionDenied          the principal lacks a right, or its scope excludes the object
│   └── TenantSuspended
├── AccessNotFound            the tenant does not have this key, user or similar object
├── AccessConflict            an object with this name already exists
├── TenantStateConflict       the tenant's state does not allow the action
├── QuotaExceeded             a quota of the tenant is used up
├── Unavailable               a required server cannot be reached; a retry may help
└── ShuttingDown
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import JobState


class HeadraceError(Exception):
    """The base class of all domain errors."""


@dataclass(frozen=True, slots=True)
class Violation:
    """The path of an invalid field, such as `job.retry_policy.jitter`, and the rule it breaks."""

    field: str
    description: str


class InvalidRequest(HeadraceError):
    """The request is malformed."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class PayloadInvalid(InvalidRequest):
    """The payload does not match the JSON Schema of its handler."""

    def __init__(self, job_type: str, violations: Sequence[Violation]) -> None:
        super().__init__(violations)
        self.job_type = job_type


class PageTokenInvalid(InvalidRequest):
    """A page token that is malformed or belongs to a different filter."""

    def __init__(self) -> None:
        super().__init__(
            [Violation("page_token", "must be the next_page_token of a page with the same filter")]
        )


class CursorInvalid(InvalidRequest):
    """A cursor that is malformed or belongs to a different database."""

    def __init__(self) -> None:
        super().__init__([Violation("cursor", "must be a cursor that this installation issued")])


class JobNotFound(HeadraceError):
    """The tenant does not have this job."""

    def __init__(self, job_id: JobId) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} does not exist")


class RequestIdConflict(HeadraceError):
    """The job or batch `existing_id` used the idempotency key for different content."""

    def __init__(self, request_id: str, *, kind: str, existing_id: str) -> None:
        self.request_id = request_id
        self.kind = kind
        self.existing_id = existing_id
        super().__init__(
            f"request_id {request_id!r} was used for {kind} {existing_id} with different content; "
            "use a new request_id for new content"
        )


class StateConflict(HeadraceError):
    """The job's state does not allow the action."""

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
    """A size, a count or a depth exceeds its limit.

    `limit` is the name of the setting, or the name of the limit if no setting controls it.
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
    """The tenant already has the maximum number of subscriptions and must delete one first."""

    def __init__(self, maximum: int, *, actual: int) -> None:
        super().__init__(
            "tenant",
            limit="HEADRACE_MAX_SUBSCRIPTIONS",
            maximum=maximum,
            actual=actual,
            unit="subscriptions",
        )


class CursorExpired(HeadraceError):
    """Events after the cursor were pruned. `oldest_cursor` is the first usable cursor."""

    def __init__(self, oldest_cursor: str) -> None:
        self.oldest_cursor = oldest_cursor
        super().__init__(
            "events after this cursor were pruned; continue from oldest_cursor, "
            "and call GetJob for the current state of the jobs that you follow"
        )


class SlowConsumer(HeadraceError):
    """The reader of a stream stopped reading for too long.

    `place` is the request field to resume with (`cursor`, `after_seq`) and its value, which is
    empty for a stream that starts again from its current state.
    """

    def __init__(self, patience: float, place: tuple[str, str]) -> None:
        self.place = place
        way = f"resume it with the {place[0]} in this error" if place[1] else "open it again"
        super().__init__(f"the stream was not read for {patience:g} s; {way}")


class SubscriptionNotFound(HeadraceError):
    """The tenant does not have this subscription."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"subscription {name!r} does not exist; create it first")


class SubscriptionConflict(HeadraceError):
    """The subscription with this name has a different filter."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"subscription {name!r} has a different filter; choose another name, or delete it first"
        )


class SubscriptionTaken(HeadraceError):
    """Another consumer, or a newer watch of the same consumer, has acquired the subscription.

    Only the consumer that receives a subscription can acknowledge its events.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"another watch has taken over subscription {name!r}; watch it again")


class StaleTerm(HeadraceError):
    """A scheduler's write was rejected because its term is over."""

    def __init__(self, term: int) -> None:
        self.term = term
        super().__init__(f"term {term} is over")


class Unauthenticated(HeadraceError):
    """The credential of a call is missing, malformed, unknown, expired or revoked.

    The message never contains the credential. Unknown and revoked credentials have the same
    message.
    """

    def __init__(self, problem: str = "the credential is not valid") -> None:
        super().__init__(
            f"{problem}; send 'authorization: Bearer …' with an API key or an access token"
        )


class CredentialChanged(Unauthenticated):
    """A stream ended because its credential expired, was revoked, or has different rights.

    `place` is the request field to resume with (`cursor`, `after_seq`) and its value, which is
    empty for a stream that starts again from its current state.
    """

    def __init__(self, place: tuple[str, str]) -> None:
        self.place = place
        way = f"resume with the {place[0]} of this error and" if place[1] else "open it again with"
        HeadraceError.__init__(
            self,
            f"the credential of this stream has expired or changed; {way} a valid credential",
        )


class LoginRejected(Unauthenticated):
    """The tenant, the user name or the password is wrong, or the user is disabled."""

    def __init__(self) -> None:
        HeadraceError.__init__(self, "the tenant, the user name or the password is wrong")


class SessionEnded(Unauthenticated):
    """A refresh token is not valid, or its session has ended."""

    def __init__(self) -> None:
        HeadraceError.__init__(self, "the session has ended; log in again")


class LoginThrottled(HeadraceError):
    """Too many logins have failed, or too many wait for the verification of their passwords.

    Args:
        retry_after: the seconds until the next login is accepted.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(
            f"too many logins have failed or are waiting; try again in {math.ceil(retry_after)} s"
        )


class TokensThrottled(HeadraceError):
    """Too many tokens of an address were rejected, so the gateway does not verify this one now.

    Args:
        retry_after: the seconds until the next try.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(
            "too many tokens from this address were rejected; try again in "
            f"{math.ceil(retry_after)} s"
        )


class PermissionDenied(HeadraceError):
    """The principal lacks a right, or its scope excludes the object.

    Args:
        right: the missing right, such as `jobs:submit`, or the missing entry of the scope, such as
            `queue:mail`.
    """

    def __init__(self, right: str) -> None:
        self.right = right
        super().__init__(f"this principal lacks the right '{right}'; ask an admin of the tenant")


class TenantSuspended(PermissionDenied):
    """The tenant is suspended, or does not exist."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.right = ""
        HeadraceError.__init__(
            self, f"tenant {tenant!r} is suspended or does not exist; ask the operator of Headrace"
        )


class AccessNotFound(HeadraceError):
    """The tenant does not have this object.

    Args:
        kind: such as `api key` or `user`.
        name: its id or name.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"{kind} {name!r} does not exist")


class AccessConflict(HeadraceError):
    """An object of this kind and name already exists.

    Args:
        kind: such as `api key` or `user`.
        name: its id or name.
        advice: what the caller can do.
    """

    def __init__(
        self, kind: str, name: str, advice: str = "choose another name, or delete it first"
    ) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"{kind} {name!r} exists; {advice}")


class TenantStateConflict(HeadraceError):
    """The tenant's state does not allow the action."""

    def __init__(self, tenant: str, *, action: str, state: str) -> None:
        self.tenant = tenant
        self.state = state
        super().__init__(f"tenant {tenant!r} is {state.upper()}; it is too late to {action} it")


class QuotaExceeded(HeadraceError):
    """A quota of the tenant is used up.

    Args:
        quota: the name of the quota, such as `waiting_jobs`.
        limit: the quota.
        used: the amount that is in use.
        retry_after: seconds after which a retry may succeed.
    """

    def __init__(self, quota: str, *, limit: int, used: int, retry_after: float) -> None:
        self.quota = quota
        self.limit = limit
        self.used = used
        self.retry_after = retry_after
        super().__init__(
            f"the quota {quota} of this tenant is used up: {used:,} of {limit:,} are in use; "
            "try again later, or ask an admin of the tenant for a higher quota"
        )


class Unavailable(HeadraceError):
    """`dependency` (postgresql, redis) is unavailable."""

    def __init__(self, dependency: str) -> None:
        self.dependency = dependency
        super().__init__(f"{dependency} is not available; try again")

    @property
    def cause(self) -> str:
        """The driver's error, for the log, such as a full disk or a wrong password.

        Only the first line of the message is returned. Other lines can quote rows with payloads.
        """
        cause = self.__cause__
        if cause is None:
            return ""
        return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"


class ShuttingDown(HeadraceError):
    """The process is shutting down."""

    def __init__(self) -> None:
        super().__init__("this gateway is shutting down; retry at another gateway, or retry later")
