"""The client's errors.

HeadraceError
├── CallError                 a call was rejected or failed
│   ├── InvalidRequest        the request is malformed; lists every violation
│   │   ├── PayloadInvalid    the payload violates its handler's schema
│   │   ├── PageTokenInvalid
│   │   ├── CursorInvalid     the cursor is malformed, or belongs to a different database
│   │   └── LimitExceeded     a size, a count or a depth exceeds its limit
│   ├── JobNotFound
│   ├── RequestIdConflict     the request_id was used for different content
│   ├── StateConflict         the state of the job does not allow the call
│   ├── SlowConsumer          a watch was read too slowly and could not be resumed in time
│   ├── CursorExpired         events after the cursor were deleted; contains the oldest cursor
│   ├── SubscriptionNotFound
│   ├── SubscriptionConflict  a subscription with this name has a different filter
│   ├── SubscriptionTaken     another consumer holds the subscription
│   ├── Unauthenticated       the credential is missing, malformed, expired or revoked
│   │   └── CredentialChanged the credential of a stream changed, and the stream could not resume
│   ├── PermissionDenied      the credential lacks a right
│   │   └── TenantSuspended   the tenant is suspended or does not exist
│   ├── QuotaExceeded         a quota of the tenant is used up; a later call may succeed
│   ├── AccessNotFound        the API key, user or similar object does not exist
│   ├── AccessConflict        an object with this name already exists
│   ├── LoginThrottled        too many logins have failed; a later login may succeed
│   ├── TokensThrottled       too many tokens of this address were rejected
│   ├── Unavailable           no gateway could serve the call; a retry may succeed
│   ├── DeadlineExceeded      the call took too long; also a TimeoutError
│   └── InternalError         a bug in the server
├── JobFailed                 the job ended as FAILED
├── JobCancelled              the job ended as CANCELLED
├── InsecureConnection        a secret would be sent in plaintext; also a ValueError
├── ForkedProcess             a parent process has used gRPC before the fork; also a RuntimeError
├── MonkeyPatched             gevent or eventlet replaced threads or sockets; also a RuntimeError
└── WrongEventLoop            a `Client` was called from a second event loop; also a RuntimeError
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from headrace.job import Job, JobError


@dataclass(frozen=True, slots=True)
class Violation:
    """The path of an invalid field, such as `job.retry_policy.jitter`, and the broken rule."""

    field: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The status of a rejected or failed call.

    Args:
        code: the name of the gRPC status code, such as `NOT_FOUND`.
        message: a readable description.
        reason: the name in `headrace.v1.ErrorReason` without its prefix; empty if the status is
            not from a gateway, for example if the transport failed.
        metadata: the details that belong to the reason.
        violations: all invalid fields.
        retry_after: the wait that the server requests.
    """

    code: str
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    retry_after: timedelta | None = None


def _number(refusal: Refusal, key: str) -> int | None:
    text = refusal.metadata.get(key, "")
    return int(text) if text.isdecimal() else None


class HeadraceError(Exception):
    """The base class of all client errors."""


class CallError(HeadraceError):
    """A call was rejected or failed; `refusal` contains the status."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message or refusal.code)
        self.refusal = refusal


class InvalidRequest(CallError):
    """The request is malformed; `violations` lists all invalid fields."""

    @property
    def violations(self) -> Sequence[Violation]:
        return self.refusal.violations


class PayloadInvalid(InvalidRequest):
    """The payload violates its handler's JSON Schema."""


class PageTokenInvalid(InvalidRequest):
    """The page token is malformed or belongs to a different filter."""


class CursorInvalid(InvalidRequest):
    """The cursor is malformed or belongs to a different database."""


class JobNotFound(CallError):
    """The job does not exist."""

    @property
    def job_id(self) -> str:
        return self.refusal.metadata.get("job_id", "")


class RequestIdConflict(CallError):
    """The request_id belongs to `job_id` or `batch_id`, which has different content."""

    @property
    def request_id(self) -> str:
        return self.refusal.metadata.get("request_id", "")

    @property
    def job_id(self) -> str:
        return self.refusal.metadata.get("job_id", "")

    @property
    def batch_id(self) -> str:
        return self.refusal.metadata.get("batch_id", "")


class StateConflict(CallError):
    """The job is in `state`; the call requires one of `allowed`."""

    @property
    def job_id(self) -> str:
        return self.refusal.metadata.get("job_id", "")

    @property
    def state(self) -> str:
        return self.refusal.metadata.get("state", "")

    @property
    def allowed(self) -> tuple[str, ...]:
        names = self.refusal.metadata.get("allowed", "").split(",")
        return tuple(name.strip() for name in names if name.strip())


class LimitExceeded(InvalidRequest):
    """A size, a count or a depth exceeds its limit; a retry would fail too.

    `limit` is the name of the server setting, or of the limit if no setting controls it. `maximum`
    and `actual` are None if the server did not report them.
    """

    @property
    def limit(self) -> str:
        return self.refusal.metadata.get("limit", "")

    @property
    def maximum(self) -> int | None:
        return _number(self.refusal, "maximum")

    @property
    def actual(self) -> int | None:
        return _number(self.refusal, "actual")


class SlowConsumer(CallError):
    """A watch was read too slowly. The client raises this only if the watch could not resume."""


class CursorExpired(CallError):
    """Events after the cursor were deleted; `oldest_cursor` is the oldest valid cursor.

    To continue, watch from `oldest_cursor`, or acknowledge it for a subscription. Use `Client.list`
    and `Client.get` to read the current state of jobs whose events were deleted.
    """

    @property
    def oldest_cursor(self) -> str:
        return self.refusal.metadata.get("oldest_cursor", "")

    def __str__(self) -> str:
        message = super().__str__()
        if not self.oldest_cursor or self.oldest_cursor in message:
            return message
        return f"{message} (oldest_cursor: {self.oldest_cursor})"


class _SubscriptionError(CallError):
    @property
    def name(self) -> str:
        return self.refusal.metadata.get("subscription", "")


class SubscriptionNotFound(_SubscriptionError):
    """The subscription `name` does not exist; create it first."""


class SubscriptionConflict(_SubscriptionError):
    """The subscription `name` has a different filter."""


class SubscriptionTaken(_SubscriptionError):
    """Another consumer holds the subscription `name`.

    That consumer also receives all unacknowledged events. To wait on standby, subscribe again.
    """


class Unauthenticated(CallError):
    """The credential is missing, malformed, expired or revoked.

    Create the client with `token`, `api_key`, `token_provider` or a client certificate.
    """


class CredentialChanged(Unauthenticated):
    """A stream ended because its credential expired, was revoked, or has different rights.

    The client raises this only if the stream could not resume.
    """


class PermissionDenied(CallError):
    """The credential lacks `right`.

    `right` is a right, such as `jobs:submit`, or a scope entry, such as `queue:mail`.
    """

    @property
    def right(self) -> str:
        return self.refusal.metadata.get("right", "")


class TenantSuspended(PermissionDenied):
    """The tenant is suspended or does not exist."""

    @property
    def tenant(self) -> str:
        return self.refusal.metadata.get("tenant", "")


class QuotaExceeded(CallError):
    """The tenant has used up `quota`, such as `waiting_jobs`; retry after `refusal.retry_after`.

    `limit` and `used` are None if the server did not report them.
    """

    @property
    def quota(self) -> str:
        return self.refusal.metadata.get("quota", "")

    @property
    def limit(self) -> int | None:
        return _number(self.refusal, "limit")

    @property
    def used(self) -> int | None:
        return _number(self.refusal, "used")


class _AccessError(CallError):
    @property
    def kind(self) -> str:
        return self.refusal.metadata.get("kind", "")

    @property
    def name(self) -> str:
        return self.refusal.metadata.get("name", "")


class AccessNotFound(_AccessError):
    """The tenant does not have the object `name` of this `kind`, such as `api key`."""


class AccessConflict(_AccessError):
    """An object `name` of this `kind` already exists; choose another name, or delete it first."""


class LoginThrottled(CallError):
    """Too many logins have failed; retry after `refusal.retry_after`."""


class TokensThrottled(CallError):
    """Too many tokens of this address were rejected; `refusal.retry_after` is the wait."""


class Unavailable(CallError):
    """No gateway could serve the call; a retry may succeed."""


class DeadlineExceeded(CallError, TimeoutError):
    """The call exceeded its deadline."""


class InternalError(CallError):
    """A bug in the server; search its log for `request_id`."""

    @property
    def request_id(self) -> str:
        return self.refusal.metadata.get("request_id", "")


class JobFailed(HeadraceError):
    """The job ended as FAILED with `error`; `job` is the full job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.error = job.error or JobError(type="", message="no error was stored", retryable=False)
        kind = f"{self.error.type}: " if self.error.type else ""
        withheld = "error.message" in job.withheld_fields
        message = "the message is withheld" if withheld else self.error.message
        super().__init__(f"job {job.id} failed: {kind}{message}")


class JobCancelled(HeadraceError):
    """The job ended as CANCELLED; `job` is the full job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(f"job {job.id} was cancelled")


class InsecureConnection(HeadraceError, ValueError):
    """A credential or a password would be sent to another machine in plaintext.

    Use TLS, or `insecure=True` in a network that you trust.
    """


class ForkedProcess(HeadraceError, RuntimeError):
    """gRPC does not work in this process, because it is a fork of a process that has used gRPC.

    Use clients only after the fork, or start processes with "spawn" or "forkserver".
    """


class MonkeyPatched(HeadraceError, RuntimeError):
    """gevent or eventlet has replaced threads, sockets or select in this process.

    gRPC would hang. Use the client in a process without monkey patching.
    """


class WrongEventLoop(HeadraceError, RuntimeError):
    """A `Client` was called from a second event loop; it belongs to the first loop that used it.

    Create a client in each event loop, or use `SyncClient`, which any thread can call.
    """
