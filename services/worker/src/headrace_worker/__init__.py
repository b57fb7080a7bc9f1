"""The Headrace worker and its handler interface.

from headrace_worker import Context, Fail, Retry, handler

@handler("greet")
async def greet(payload: Greeting, ctx: Context) -> Greeted: ...
"""

from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.retry import RetryPolicy
from headrace_worker.api.context import Attempt, Context, SyncContext
from headrace_worker.api.errors import (
    AlreadyCompleted,
    Fail,
    InvalidPayload,
    InvalidProgress,
    Retry,
    Stopped,
)
from headrace_worker.api.loading import MissingPackages, require_packages
from headrace_worker.api.registry import handler

__all__ = [
    "AlreadyCompleted",
    "Attempt",
    "AttemptNotCurrent",
    "Context",
    "Fail",
    "InvalidPayload",
    "InvalidProgress",
    "MissingPackages",
    "Retry",
    "RetryPolicy",
    "Stopped",
    "SyncContext",
    "handler",
    "require_packages",
]
