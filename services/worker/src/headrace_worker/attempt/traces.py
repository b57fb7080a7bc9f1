"""The spans of an attempt: its wait in the queue, and its execution."""

from __future__ import annotations

import time
from datetime import timedelta

from headrace_core.domain.attempt import ClaimedJob
from headrace_core.runtime.tracing import Attributes, Span, SpanKind, Tracing


def start_span(tracing: Tracing, job: ClaimedJob) -> Span:
    """Return the open span of a claimed attempt, which is a trace of its own.

    It links to the submit of the job, because an attempt can start days later. The wait ends with
    the claim; a span before the attempt's own shows it.
    """
    now = time.time_ns()
    attributes: Attributes = {
        "headrace.job.id": str(job.key.job_id),
        "headrace.job.type": job.type,
        "headrace.job.queue": job.queue,
        "headrace.job.attempt": job.key.attempt,
        "headrace.tenant": job.tenant,
    }
    span = tracing.start(
        f"attempt {job.type}",
        SpanKind.CONSUMER,
        link=job.trace_context,
        attributes=attributes,
        at=now,
    )
    if job.wait is not None:
        # The database measured the wait, so its clock does not matter.
        waited = max(job.wait, timedelta()) // timedelta(microseconds=1) * 1000
        wait = tracing.start(
            f"wait {job.type}",
            SpanKind.INTERNAL,
            parent=span.context,
            attributes=attributes,
            at=now - waited,
        )
        wait.end(at=now)
    return span


def end_span(span: Span, outcome: str, error: str) -> None:
    """End the span of an attempt.

    Args:
        span: the span.
        outcome: the event that ended the attempt, or `refused` or `lost`.
        error: the type of the error; empty for none. The message belongs to the job, because it can
            contain a part of the payload.
    """
    span.end({"headrace.job.outcome": outcome}, error=error)
