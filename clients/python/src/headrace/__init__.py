"""The Headrace client: submit jobs and follow each of their transitions live.

`Client` is asynchronous; `SyncClient` has the same methods for synchronous programs.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.access import (
    ApiKey,
    CertificateBinding,
    Login,
    NewApiKey,
    NewUser,
    NewWatchToken,
    Principal,
    PrincipalKind,
    Role,
    SessionTokens,
    User,
)
from headrace.audit import AuditEvent
from headrace.errors import (
    AccessConflict,
    AccessNotFound,
    CallError,
    CredentialChanged,
    CursorExpired,
    CursorInvalid,
    DeadlineExceeded,
    ForkedProcess,
    HeadraceError,
    InsecureConnection,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    JobNotFound,
    LimitExceeded,
    LoginThrottled,
    MonkeyPatched,
    PageTokenInvalid,
    PayloadInvalid,
    PermissionDenied,
    QuotaExceeded,
    Refusal,
    RequestIdConflict,
    SlowConsumer,
    StateConflict,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
    TenantSuspended,
    TokensThrottled,
    Unauthenticated,
    Unavailable,
    Violation,
    WrongEventLoop,
)
from headrace.event import JobEvent, JobEventType
from headrace.job import (
    Duration,
    Job,
    JobError,
    JobOptions,
    JobOutput,
    JobSpec,
    JobState,
    Omitted,
    Progress,
    RetryPolicy,
    SubmitOutcome,
)
from headrace.job_log import JobLogLine, LogLevel
from headrace.monitor import (
    FailingType,
    History,
    HistoryPoint,
    Latency,
    OldestJob,
    Overview,
    QueueStatus,
    Rates,
    RunningJob,
    Worker,
)
from headrace.stats import HandlerInfo, QueueStats, Stats, TypeStats
from headrace.subscription import JobFilter, Subscription
from headrace.tenant import Quotas, Tenant, TenantDeletion, TenantState, TenantUsage
from headrace.tls import TLS

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.handle import Batch, JobHandle
    from headrace.subscription_watch import SubscriptionWatch
    from headrace.sync import (
        SyncBatch,
        SyncClient,
        SyncJobHandle,
        SyncSubscriptionWatch,
        SyncWatch,
    )
    from headrace.watch import JobWatch, LogWatch, Watch

    __version__: str

# gRPC reads this variable when it is imported. With gRPC's fork handlers, a forked child of a
# process with open streams crashes, even if the child never uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__all__ = [
    "TLS",
    "AccessConflict",
    "AccessNotFound",
    "ApiKey",
    "AuditEvent",
    "Batch",
    "CallError",
    "CertificateBinding",
    "Client",
    "CredentialChanged",
    "CursorExpired",
    "CursorInvalid",
    "DeadlineExceeded",
    "Duration",
    "FailingType",
    "ForkedProcess",
    "HandlerInfo",
    "HeadraceError",
    "History",
    "HistoryPoint",
    "InsecureConnection",
    "InternalError",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobEventType",
    "JobFailed",
    "JobFilter",
    "JobHandle",
    "JobLogLine",
    "JobNotFound",
    "JobOptions",
    "JobOutput",
    "JobSpec",
    "JobState",
    "JobWatch",
    "Latency",
    "LimitExceeded",
    "LogLevel",
    "LogWatch",
    "Login",
    "LoginThrottled",
    "MonkeyPatched",
    "NewApiKey",
    "NewUser",
    "NewWatchToken",
    "OldestJob",
    "Omitted",
    "Overview",
    "PageTokenInvalid",
    "PayloadInvalid",
    "PermissionDenied",
    "Principal",
    "PrincipalKind",
    "Progress",
    "QueueStats",
    "QueueStatus",
    "QuotaExceeded",
    "Quotas",
    "Rates",
    "Refusal",
    "RequestIdConflict",
    "RetryPolicy",
    "Role",
    "RunningJob",
    "SessionTokens",
    "SlowConsumer",
    "StateConflict",
    "Stats",
    "SubmitOutcome",
    "Subscription",
    "SubscriptionConflict",
    "SubscriptionNotFound",
    "SubscriptionTaken",
    "SubscriptionWatch",
    "SyncBatch",
    "SyncClient",
    "SyncJobHandle",
    "SyncSubscriptionWatch",
    "SyncWatch",
    "Tenant",
    "TenantDeletion",
    "TenantState",
    "TenantSuspended",
    "TenantUsage",
    "TokensThrottled",
    "TypeStats",
    "Unauthenticated",
    "Unavailable",
    "User",
    "Violation",
    "Watch",
    "Worker",
    "WrongEventLoop",
]

# Names that need gRPC are imported on first use. Importing gRPC takes longer than everything else,
# and `headrace --help` does not need it.
_GRPC_NAMES = {
    "Batch": "headrace.handle",
    "Client": "headrace.client",
    "JobHandle": "headrace.handle",
    "JobWatch": "headrace.watch",
    "LogWatch": "headrace.watch",
    "SubscriptionWatch": "headrace.subscription_watch",
    "SyncBatch": "headrace.sync",
    "SyncClient": "headrace.sync",
    "SyncJobHandle": "headrace.sync",
    "SyncSubscriptionWatch": "headrace.sync",
    "SyncWatch": "headrace.sync",
    "Watch": "headrace.watch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _GRPC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_GRPC_NAMES[name]), name)


def _version() -> str:
    # Imported here because this import takes longer than the rest of this package.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("headrace")
    except PackageNotFoundError:
        return "unknown"
