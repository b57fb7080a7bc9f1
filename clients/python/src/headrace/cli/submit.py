"""`headrace submit`."""

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
from headrace.cli.completion import complete_queues, complete_types
from headrace.cli.output import document, json_text, summary
from headrace.cli.session import Exit, Injected, Session, time_limit
from headrace.cli.stream import EventWriter, follow
from headrace.cli.text import plain
from headrace.cli.usage import UsageError

if TYPE_CHECKING:
    from headrace import Client, JobHandle


def command(
    job_type: Annotated[
        str,
        Parameter(name="TYPE", completer=complete_types, help="The job type, for example email."),
    ],
    payload: Annotated[
        str | None,
        Parameter(help="The handler's input: JSON, @FILE, or - for stdin; default {}."),
    ] = None,
    /,
    *,
    queue: Annotated[
        str | None,
        Parameter(completer=complete_queues, help="The queue; default: the handler's queue."),
    ] = None,
    priority: Annotated[int, Parameter(help="-100 to 100; higher priorities start first.")] = 0,
    label: Annotated[
        Repeated, Parameter(name=["--label", "-l"], help="Add a label, key=value; repeatable.")
    ] = None,
    delay: Annotated[
        DurationOption, Parameter(help="Start after this delay: 90, 90s, 1.5m.")
    ] = None,
    at: Annotated[MomentOption, Parameter(help="Start at this time: 2026-11-30T18:00.")] = None,
    run_timeout: Annotated[
        DurationOption, Parameter(name="--timeout", help="Maximum duration of one attempt.")
    ] = None,
    deadline: Annotated[
        MomentOrDurationOption, Parameter(help="Time at which the job expires.")
    ] = None,
    max_attempts: Annotated[
        int | None, Parameter(help="Maximum number of attempts, 1 to 100.")
    ] = None,
    no_retry_on: Annotated[
        Repeated, Parameter(help="An error type that is not retried; repeatable.")
    ] = None,
    request_id: Annotated[
        str | None,
        Parameter(help="Idempotency key: the same key with the same job submits it once."),
    ] = None,
    correlation_id: Annotated[
        str | None, Parameter(help="An id that is added to every log line about the job.")
    ] = None,
    validate_only: Annotated[
        Flag, Parameter(help="Validate the job without submitting it.")
    ] = False,
    watch: Annotated[Flag, Parameter(help="Follow the job until it ends.")] = False,
    wait: Annotated[Flag, Parameter(help="Wait until the job ends, and print its result.")] = False,
    timeout_wait: Annotated[
        DurationOption, Parameter(help="Stop watching or waiting after this duration.")
    ] = None,
    session: Injected,
) -> Coroutine[Any, Any, Exit]:
    if watch + wait + validate_only > 1:
        raise UsageError("use only one of --watch, --wait and --validate-only")
    if delay is not None and at is not None:
        raise UsageError("use only one of --delay and --at")
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
    # Read the payload before the event loop runs, because a blocking read would also block Ctrl-C.
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
                session.output.message(
                    "this request id was used before; the existing job was returned"
                )
            if job.outcome is SubmitOutcome.CREATED:
                await _warn_without_worker(client, job_type, session)
            async with time_limit(
                timeout_wait,
                f"gave up waiting for job {job.id}; the job continues",
            ):
                if watch:
                    return await _watch(client, job, session)
                if wait:
                    return await _wait(job, session)
        _print_job(job, session)
        return Exit.OK

    return run()


async def _warn_without_worker(client: Client, job_type: str, session: Session) -> None:
    """Warn if no live worker runs the type, because the output would not show why the job waits."""
    try:
        known = {handler.type for handler in await client.handlers()}
    except CallError:
        # The warning is optional, and the job is already stored.
        return
    if job_type not in known:
        session.output.message(
            f"warning: no live worker runs jobs of type {job_type}; the job waits until one does\n"
            "try: headrace handlers"
        )


def _print_job(job: JobHandle, session: Session) -> None:
    text = job.id or str(job.outcome)
    found = summary(job.job) if job.job else {}
    session.output.value({**found, "outcome": job.outcome}, text)


async def _watch(client: Client, job: JobHandle, session: Session) -> Exit:
    session.output.message(f"job {job.id}")
    with EventWriter(session.output) as stream:
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
    return _exit_code(ended)


def _exit_code(job: Job) -> Exit:
    if job.state is JobState.FAILED:
        raise JobFailed(job)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job)
    return Exit.OK
