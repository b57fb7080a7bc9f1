"""The link `payload reads`: reports calls that read payloads, for tenants that record them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, ClassVar, Final, Protocol

from google.protobuf.message import Message

from headrace.v1.job_pb2 import JOB_VIEW_BASIC, JOB_VIEW_FULL
from headrace_core.domain.access import Right
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.exchange import Exchange, Method, Proceed


class ReadLog(Protocol):
    """Receives the reads of payloads."""

    @property
    def readers(self) -> Collection[str]:
        """The tenants that record reads of payloads."""

    def note_read(self, call: Call, target: str) -> None:
        """Record that a call reads the payloads of `target`."""


class PayloadReads:
    """Reports each call that reads payloads, results, output or logs, before it runs.

    Args:
        log: receives the calls; None if they are not recorded.
    """

    name: ClassVar[str] = "payload reads"
    needs: ClassVar[tuple[str, ...]] = ("authorize", "decode")

    def __init__(self, log: ReadLog | None) -> None:
        self._log = log

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that reports a call and calls `proceed`."""
        log, describe = self._log, _TARGETS.get(method.path)
        if log is None or describe is None:
            return proceed

        def note(exchange: Exchange) -> Awaitable[Message | None]:
            call = exchange.call
            if call.tenant in log.readers and Right.PAYLOAD_READ in call.principal.rights:
                target = describe(exchange.request)
                if target is not None:
                    log.note_read(call, target)
            return proceed(exchange)

        return note


def _one_job(request: Any) -> str:
    return f"job {request.job_id}"


def _get_job(request: Any) -> str | None:
    return None if request.view == JOB_VIEW_BASIC else _one_job(request)


def _list_jobs(request: Any) -> str | None:
    if request.view != JOB_VIEW_FULL:
        return None
    return f"jobs {request.filter}".strip()


def _watch_jobs(request: Any) -> str:
    wanted = request.filter
    parts = [
        *(f"queue:{name}" for name in wanted.queues),
        *(f"type:{name}" for name in wanted.types),
        *(f"label:{key}={value}" for key, value in sorted(wanted.labels.items())),
        *([f"batch:{wanted.batch_id}"] if wanted.batch_id else []),
        *(f"job:{job_id}" for job_id in wanted.job_ids[:10]),
    ]
    return " ".join(("jobs", *parts))


_JOBS: Final = "/headrace.v1.JobService/"

# The description of what a request reads; None if it reads no payload.
_TARGETS: Final[Mapping[str, Callable[[Any], str | None]]] = {
    f"{_JOBS}GetJob": _get_job,
    f"{_JOBS}ListJobs": _list_jobs,
    f"{_JOBS}ListJobEvents": _one_job,
    f"{_JOBS}ListJobOutput": _one_job,
    f"{_JOBS}ListJobLogs": _one_job,
    f"{_JOBS}WatchJobLogs": _one_job,
    f"{_JOBS}WatchJob": _one_job,
    f"{_JOBS}WatchJobs": _watch_jobs,
    f"{_JOBS}SubmitAndWatch": lambda request: f"jobs of type {request.job.type}",
    "/headrace.v1.SubscriptionService/WatchSubscription": (
        lambda request: f"subscription {request.name}"
    ),
}
