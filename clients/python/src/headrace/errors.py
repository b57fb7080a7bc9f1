"""The errors of the client.

HeadraceError
├── CallError                 a call was refused or did not come through
│   ├── InvalidRequest        what was asked is malformed; lists every violation
│   │   ├── PayloadInvalid    the payload breaks its handler's schema
│   │   ├── PageTokenInvalid
│   │   ├── CursorInvalid     malformed, or of another database
│   │   └── LimitExceeded     a size, a count or a depth is beyond its limit
│   ├── JobNotFound
│   ├── RequestIdConflict     a request_id was used for another content
│   ├── StateConflict         the job is in a state that does not allow it
│   ├── SlowConsumer          a watch was read too slowly; it could not be resumed in time
│   ├── CursorExpired         older than what is kept; says how to go on
│   ├── SubscriptionNotFound
│   ├── SubscriptionConflict  the name has another filter
│   ├── SubscriptionTaken     another consumer receives it; what was not acknowledged goes there
│   ├── Unavailable           no gateway could serve it; trying again may help
│   ├── DeadlineExceeded      the call took too long; a TimeoutError as well
│   └── InternalError         a bug of the server
├── JobFailed                 the job ended as FAILED
├── JobCancelled              the job ended as CANCELLED
├── ForkedProcess             the process was forked from one that used gRPC; a RuntimeError
├── MonkeyPatched             gevent or eventlet has replaced threads or sockets; a RuntimeError
└── WrongEventLoop            a `Client` was called from another event loop; a RuntimeError
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from headrace.job import Job, JobError


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field: its path (`job.retry_policy.jitter`) and what it must be."""

    field: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a server said when it refused a call.

    Args:
        code: the gRPC status code's name, such as `NOT_FOUND`.
        message: what a person should read.
        reason: the name in `headrace.v1.ErrorReason` without its prefix; empty when the answer came
            from elsewhere, such as the transport.
        metadata: the particulars that the reason has.
        violations: every malformed field.
        retry_after: how long the server asks to wait.
    """

    code: str
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    retry_after: timedelta | None = None


class HeadraceError(Exception):
    """The root of the tree."""


class CallError(HeadraceError):
    """A call was refused or did not come through. `refusal` has all that is known."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message or refusal.code)
        self.refusal = refusal


class InvalidRequest(CallError):
    """What was asked is malformed; `violations` has every fault."""

    @property
    def violations(self) -> Sequence[Violation]:
        return self.refusal.violations


class PayloadInvalid(InvalidRequest):
    """The payload breaks the JSON Schema of its handler."""


class PageTokenInvalid(InvalidRequest):
    """A page token that is malformed or belongs to another filter."""


class CursorInvalid(InvalidRequest):
    """A cursor that is malformed or belongs to another database."""


class JobNotFound(CallError):
    """No such job."""

    @property
    def job_id(self) -> str:
        return self.refusal.metadata.get("job_id", "")


class RequestIdConflict(CallError):
    """The request_id was used for another content; `job_id` (or `batch_id`) has it."""

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
    """The job is in `state`, and what was asked needs one of `allowed`."""

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
    """A size, a count or a depth is beyond its limit; the same call fails again.

    `limit` is the server's setting or the name of the limit. `maximum` and `actual` are None when
    the server did not report them.
    """

    @property
    def limit(self) -> str:
        return self.refusal.metadata.get("limit", "")

    @property
    def maximum(self) -> int | None:
        return self._number("maximum")

    @property
    def actual(self) -> int | None:
        return self._number("actual")

    def _number(self, key: str) -> int | None:
        text = self.refusal.metadata.get(key, "")
        return int(text) if text.isdecimal() else None


class SlowConsumer(CallError):
    """A watch was read too slowly. Watches resume by themselves, so this is seldom seen."""


class CursorExpired(CallError):
    """The cursor is older than what is kept; `oldest_cursor` is the oldest usable one.

    To go on, watch from `oldest_cursor`, or acknowledge it for a subscription. What had happened
    before cannot be streamed any more: read the jobs themselves where it matters, with
    `Client.list` and `Client.get`.
    """

    @property
    def oldest_cursor(self) -> str:
        return self.refusal.metadata.get("oldest_cursor", "")

    def __str__(self) -> str:
        said = super().__str__()
        if not self.oldest_cursor or self.oldest_cursor in said:
            return said
        return f"{said} (oldest_cursor: {self.oldest_cursor})"


class _SubscriptionError(CallError):
    @property
    def name(self) -> str:
        return self.refusal.metadata.get("subscription", "")


class SubscriptionNotFound(_SubscriptionError):
    """No subscription has this `name`; create it first."""


class SubscriptionConflict(_SubscriptionError):
    """The subscription `name` has another filter."""


class SubscriptionTaken(_SubscriptionError):
    """Another consumer receives the subscription `name` now.

    What was not acknowledged goes there. To stand by for the next turn, subscribe again.
    """


class Unavailable(CallError):
    """No gateway could serve the call; trying again may help."""


class DeadlineExceeded(CallError, TimeoutError):
    """The call took longer than its deadline allows."""


class InternalError(CallError):
    """A bug of the server; its log has it under `request_id`."""

    @property
    def request_id(self) -> str:
        return self.refusal.metadata.get("request_id", "")


class JobFailed(HeadraceError):
    """The job ended as FAILED, for the reason `error`. `job` is all of it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.error = job.error or JobError(type="", message="no reason was given", retryable=False)
        kind = f"{self.error.type}: " if self.error.type else ""
        super().__init__(f"job {job.id} failed: {kind}{self.error.message}")


class JobCancelled(HeadraceError):
    """The job ended as CANCELLED. `job` is all of it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(f"job {job.id} was cancelled")


class ForkedProcess(HeadraceError, RuntimeError):
    """The process was forked from one that had used gRPC, which cannot work in it.

    Use clients only after the fork, or start processes with "spawn" or "forkserver".
    """


class MonkeyPatched(HeadraceError, RuntimeError):
    """gevent or eventlet has replaced threads, sockets or select in this process.

    gRPC hangs on that. Use the client in a process without monkey patching.
    """


class WrongEventLoop(HeadraceError, RuntimeError):
    """A `Client` was called from another event loop than the one that it was first used in.

    Create a client in each event loop, or use `SyncClient`, which any thread may call.
    """
