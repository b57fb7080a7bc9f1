"""`headrace submit`"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from headrace import (
    CallError,
    Job,
    JobCancelled,
    JobFailed,
    JobOptions,
    JobState,
    RetryPolicy,
    SubmitOutcome,
)
from headrace.cli.arguments import (
    DurationOption,
    Flag,
    MomentOption,
    MomentOrDurationOption,
    Repeated,
    labels,
)
from headrace.cli.arguments import payload as read_payload
from headrace.cli.documents import document, json_text, summary
from headrace.cli.exits import Exit
from headrace.cli.follow import follow
from headrace.cli.patience import patience
from headrace.cli.session import Injected, Session, UsageError
from headrace.cli.stream import EventStream
from headrace.cli.text import plain

if TYPE_CHECKING:
    from headrace import Client, JobHandle


def command(
    job_type: Annotated[str, Parameter(name="TYPE", help="Names the handler: email, square_sum.")],
    payload: Annotated[
        str | None,
        Parameter(help="The handler's argument: JSON, @FILE, or - for stdin; {} unless given."),
    ] = None,
    /,
    *,
    queue: Annotated[
        str | None, Parameter(help="The queue; the handler's own unless given.")
    ] = None,
    priority: Annotated[int, Parameter(help="-100 to 100; higher goes first.")] = 0,
    label: Annotated[
        Repeated, Parameter(name=["--label", "-l"], help="A mark, as key=value; repeatable.")
    ] = None,
    delay: Annotated[DurationOption, Parameter(help="Start after this: 90, 90s, 1.5m.")] = None,
    at: Annotated[MomentOption, Parameter(help="Start at this time: 2026-11-30T18:00.")] = None,
    run_timeout: Annotated[
        DurationOption, Parameter(name="--timeout", help="How long one attempt may run.")
    ] = None,
    deadline: Annotated[
        MomentOrDurationOption, Parameter(help="When the job must have ended.")
    ] = None,
    max_attempts: Annotated[int | None, Parameter(help="Attempts in all; 1 to 100.")] = None,
    no_retry_on: Annotated[
        Repeated, Parameter(help="A type of errors that ends the job at once; repeatable.")
    ] = None,
    request_id: Annotated[
        str | None,
        Parameter(help="The idempotency key: the same one with the same job submits it once."),
    ] = None,
    correlation_id: Annotated[
        str | None, Parameter(help="An id that every log line about the job has.")
    ] = None,
    validate_only: Annotated[Flag, Parameter(help="Only say what would happen.")] = False,
    watch: Annotated[Flag, Parameter(help="Follow the job to its end.")] = False,
    wait: Annotated[Flag, Parameter(help="Wait for the job to end, and print its result.")] = False,
    timeout_wait: Annotated[
        DurationOption, Parameter(help="Watch or wait no longer than this.")
    ] = None,
    session: Injected,
) -> Coroutine[Any, Any, Exit]:
    if watch + wait + validate_only > 1:
        raise UsageError("--watch, --wait and --validate-only exclude each other")
    if delay is not None and at is not None:
        raise UsageError("--delay and --at exclude each other")
    options = JobOptions(
        queue=queue or "",
        priority=priority,
        labels=labels(label),
        delay=delay,
        schedule_time=at,
        timeout=run_timeout,
        deadline=deadline,
        retry=RetryPolicy(max_attempts=max_attempts, non_retryable_error_types=no_retry_on),
    )
    # Before the event loop runs, since a read of stdin would block it, and Ctrl-C with it.
    argument = read_payload(payload)

    async def run() -> Exit:
        async with session.client() as client:
            job = await client.submit(
                job_type,
                argument,
                request_id=request_id,
                validate_only=validate_only,
                correlation_id=correlation_id,
                **options,
            )
            if job.outcome is SubmitOutcome.EXISTING:
                session.output.message("the request id was used before; this is the same job")
            if job.outcome is SubmitOutcome.CREATED:
                await _warn(client, job_type, session)
            async with patience(timeout_wait, f"job {job.id} has not ended in time, and goes on"):
                if watch:
                    return await _watch(client, job, session)
                if wait:
                    return await _wait(job, session)
        _tell(job, session)
        return Exit.OK

    return run()


async def _warn(client: Client, job_type: str, session: Session) -> None:
    """Warn when no live worker runs the type: the job then waits, and nothing else shows it."""
    try:
        known = {handler.type for handler in await client.handlers()}
    except CallError:
        # The job is stored; a failed warning is no failed submit.
        return
    if job_type not in known:
        session.output.message(
            f"warning: no live worker runs the type {job_type}; the job waits until one does\n"
            "try: headrace handlers"
        )


def _tell(job: JobHandle, session: Session) -> None:
    text = job.id or str(job.outcome)
    found = summary(job.job) if job.job else {}
    session.output.value({**found, "outcome": job.outcome}, text)


async def _watch(client: Client, job: JobHandle, session: Session) -> Exit:
    session.output.message(f"job {job.id}")
    with EventStream(session.output) as stream:
        await follow(client, [job.id], stream)
    if session.output.format == "text" and stream.all_succeeded:
        session.output.line(plain(json_text((await job.get()).result)))
    return Exit.OK if stream.all_succeeded else Exit.FAILED


async def _wait(job: JobHandle, session: Session) -> Exit:
    session.output.message(f"job {job.id}")
    ended = await job.finished()
    if session.output.format != "text":
        pieces = [piece.output async for piece in job.output()] if ended.attempt else []
        session.output.value({**document(ended), "output": pieces}, "")
    elif ended.state is JobState.SUCCEEDED:
        session.output.line(plain(json_text(ended.result)))
    return _verdict(ended)


def _verdict(job: Job) -> Exit:
    if job.state is JobState.FAILED:
        raise JobFailed(job)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job)
    return Exit.OK
