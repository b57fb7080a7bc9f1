"""Headrace's client: submit jobs, and follow each of their transitions live.

`Client` is asynchronous, `SyncClient` is the same for synchronous programs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.errors import (
    CallError,
    CursorExpired,
    CursorInvalid,
    DeadlineExceeded,
    HeadraceError,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    JobNotFound,
    LimitExceeded,
    PageTokenInvalid,
    PayloadInvalid,
    Refusal,
    RequestIdConflict,
    SlowConsumer,
    StateConflict,
    Unavailable,
    Violation,
)
from headrace.event import JobEvent, JobEventType
from headrace.job import (
    Duration,
    Job,
    JobError,
    JobOptions,
    JobSpec,
    JobState,
    Progress,
    RetryPolicy,
    SubmitOutcome,
)
from headrace.stats import HandlerInfo, QueueStats, Stats, TypeStats

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.handle import Batch, JobHandle
    from headrace.sync import SyncBatch, SyncClient, SyncJobHandle, SyncWatch
    from headrace.watch import Watch

__all__ = [
    "Batch",
    "CallError",
    "Client",
    "CursorExpired",
    "CursorInvalid",
    "DeadlineExceeded",
    "Duration",
    "HandlerInfo",
    "HeadraceError",
    "InternalError",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobEventType",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobOptions",
    "JobSpec",
    "JobState",
    "LimitExceeded",
    "PageTokenInvalid",
    "PayloadInvalid",
    "Progress",
    "QueueStats",
    "Refusal",
    "RequestIdConflict",
    "RetryPolicy",
    "SlowConsumer",
    "StateConflict",
    "Stats",
    "SubmitOutcome",
    "SyncBatch",
    "SyncClient",
    "SyncJobHandle",
    "SyncWatch",
    "TypeStats",
    "Unavailable",
    "Violation",
    "Watch",
]

# What stands on gRPC is imported when it is asked for: loading gRPC takes longer than all the rest,
# and `headrace --help` needs none of it.
_ON_GRPC = {
    "Batch": "headrace.handle",
    "Client": "headrace.client",
    "JobHandle": "headrace.handle",
    "SyncBatch": "headrace.sync",
    "SyncClient": "headrace.sync",
    "SyncJobHandle": "headrace.sync",
    "SyncWatch": "headrace.sync",
    "Watch": "headrace.watch",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_GRPC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_GRPC[name]), name)
