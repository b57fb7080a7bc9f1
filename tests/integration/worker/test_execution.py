"""The end of a job for each way in which its handler ends."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import pytest_asyncio

from headrace_core.domain import retry
from headrace_core.domain.job import Progress
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from support.handlers import handlers
from support.platform import Platform, platform

# One loop for the tests of this module, which share a platform.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["own_mode", "suspect"])
async def jobs(
    module_settings: Settings, request: pytest.FixtureRequest
) -> AsyncIterator[Platform]:
    """A platform that runs jobs in their handlers' modes, or in a process as crash suspects."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "suspect":
            patch.setattr(retry, "LOSSES_BEFORE_OWN_PROCESS", 0)
        async with platform(module_settings, handlers()) as running:
            yield running


async def test_job_succeeds_and_keeps_its_result(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.echo", '{"a": 1}'))
    assert job.state is JobState.SUCCEEDED
    assert job.result == '{"a":1,"attempt":1}'
    assert await jobs.history(job.id) == [E.SUBMITTED, E.STARTED, E.SUCCEEDED]
    assert [event.seq for event in await jobs.events(job.id)] == [1, 2, 3]
    assert job.start_time is not None
    assert job.end_time is not None
    assert job.create_time <= job.start_time <= job.end_time


async def test_typed_payload_reaches_the_handler(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.double", '{"number": 21}'))
    assert job.result == '{"number":42}'


async def test_mismatched_payload_fails_without_retry(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.double", '{"number": "x"}'))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "PayloadMismatch"
    assert not job.error.retryable
    assert job.attempt == 1


@pytest.mark.parametrize("job_type", ["t.nan", "t.nan_thread", "t.nan_process", "t.nan_output"])
async def test_result_that_is_not_json_fails_without_retry(jobs: Platform, job_type: str) -> None:
    job = await jobs.until_ended(await jobs.submit(job_type))
    assert (job.state, job.attempt, job.result) == (JobState.FAILED, 1, None)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("NotJson", False)


@pytest.mark.parametrize(
    "job_type", ["t.bad_progress", "t.bad_progress_thread", "t.bad_progress_process"]
)
async def test_invalid_progress_raises_in_the_handler(jobs: Platform, job_type: str) -> None:
    job = await jobs.until_ended(await jobs.submit(job_type))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("InvalidProgress", False)
    assert "n is a str; pass an int or a float" in job.error.message
    # The handler has caught the first error and reported valid progress.
    assert job.progress == Progress(fraction=0.6, counters='{"n":1}')


async def test_failure_is_retried_until_success(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.flaky", '{"number": 2}'))
    assert (job.state, job.attempt, job.retries_used) == (JobState.SUCCEEDED, 3, 2)
    once = [E.STARTED, E.RETRY_SCHEDULED, E.DUE]
    assert await jobs.history(job.id) == [E.SUBMITTED, *once, *once, E.STARTED, E.SUCCEEDED]


async def test_spent_retries_fail_the_job(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.flaky", '{"number": 9}'))
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, 3, 2)
    assert job.error is not None
    assert (job.error.type, job.error.message) == ("ValueError", "attempt 3 fails")


async def test_submitted_retry_policy_overrides_the_handler_policy(jobs: Platform) -> None:
    job = await jobs.until_ended(
        await jobs.submit("t.flaky", '{"number": 9}', retry=RetryOverrides(max_attempts=1))
    )
    assert (job.state, job.attempt) == (JobState.FAILED, 1)


@pytest.mark.parametrize(
    ("job_type", "payload", "named"),
    [
        ("t.flaky", '{"number": 9}', "ValueError"),
        ("t.process_flaky", '{"number": 9}', "ValueError"),
        ("t.retry_later", '{"number": 300}', "Retry"),
        ("t.forever", "{}", "TIMEOUT"),
    ],
)
async def test_error_type_in_the_submit_is_not_retried(
    jobs: Platform, job_type: str, payload: str, named: str
) -> None:
    job = await jobs.until_ended(
        await jobs.submit(
            job_type,
            payload,
            timeout=timedelta(seconds=2 if named == "TIMEOUT" else 60),
            retry=RetryOverrides(max_attempts=5, non_retryable_error_types=(named, "Other")),
        )
    )
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, 1, 0)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == (named, False)


async def test_error_type_in_the_handler_is_not_retried(
    jobs: Platform,
) -> None:
    not_retried = await jobs.until_ended(await jobs.submit("t.flaky_not_retried", '{"number": 9}'))
    assert (not_retried.state, not_retried.attempt) == (JobState.FAILED, 1)
    # The error types in the submit replace those of the handler.
    other = await jobs.until_ended(
        await jobs.submit(
            "t.flaky_not_retried",
            '{"number": 2}',
            retry=RetryOverrides(non_retryable_error_types=("KeyError",)),
        )
    )
    assert (other.state, other.attempt) == (JobState.SUCCEEDED, 3)


async def test_retry_after_sets_the_wait(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.retry_later", '{"number": 300}'))
    assert job.state is JobState.SUCCEEDED
    scheduled = next(e for e in await jobs.events(job.id) if e.type is E.RETRY_SCHEDULED)
    due = next(e for e in await jobs.events(job.id) if e.type is E.DUE)
    assert scheduled.due_time is not None
    assert scheduled.due_time - scheduled.time >= timedelta(milliseconds=299)
    assert due.time >= scheduled.due_time


async def test_handler_that_raises_fail_is_not_retried(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.hopeless"))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("Hopeless", False)


@pytest.mark.parametrize("job_type", ["t.forever", "t.wait_thread", "t.spin"])
async def test_running_job_is_cancelled(jobs: Platform, job_type: str) -> None:
    job_id = await jobs.submit(job_type)
    # t.spin emits its only output before the cancel request.
    await jobs.until(job_id, E.OUTPUT if job_type == "t.spin" else E.STARTED)
    requested = await jobs.cancel(job_id)
    assert requested.state is JobState.RUNNING
    assert requested.cancel_request_time is not None
    job = await jobs.until_ended(job_id)
    assert job.state is JobState.CANCELLED
    assert (await jobs.history(job_id))[-2:] == [E.CANCEL_REQUESTED, E.CANCELLED]


async def test_cancel_kills_the_handlers_process(jobs: Platform) -> None:
    job_id = await jobs.submit("t.spin")
    pid = int((await jobs.until(job_id, E.OUTPUT)).output or "")
    assert psutil.pid_exists(pid)
    await jobs.cancel(job_id)
    await jobs.until_ended(job_id)
    assert not psutil.pid_exists(pid)


async def test_handler_that_ignores_cancellation_is_abandoned(jobs: Platform) -> None:
    job_id = await jobs.submit("t.ignore_cancel_once")
    await jobs.until(job_id, E.STARTED)
    await jobs.cancel(job_id)
    assert (await jobs.until_ended(job_id)).state is JobState.CANCELLED


@pytest.mark.parametrize("job_type", ["t.forever", "t.wait_thread", "t.spin"])
async def test_timeout_fails_the_attempt(jobs: Platform, job_type: str) -> None:
    job = await jobs.until_ended(
        await jobs.submit(
            job_type,
            timeout=timedelta(milliseconds=200),
            retry=RetryOverrides(max_attempts=1),
        )
    )
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("TIMEOUT", True)


async def test_deadline_ends_a_running_job(jobs: Platform) -> None:
    job = await jobs.until_ended(
        await jobs.submit("t.forever", deadline=datetime.now(UTC) + timedelta(seconds=1))
    )
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "DEADLINE_EXCEEDED"
    assert (await jobs.history(job.id))[-1] is E.EXPIRED


async def test_thread_reports_progress_and_output_in_order(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.thread", '{"number": 4}'))
    assert job.state is JobState.SUCCEEDED
    outputs = [event.output for event in await jobs.events(job.id) if event.output is not None]
    assert outputs == [f'"chunk {number}"' for number in range(4)]
    assert job.progress is not None
    assert job.progress.message == "step 3"


async def test_progress_is_merged_and_the_last_is_kept(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.progress", '{"number": 5000}'))
    written = (await jobs.history(job.id)).count(E.PROGRESSED)
    assert job.start_time is not None
    assert job.end_time is not None
    seconds = (job.end_time - job.start_time).total_seconds()
    assert 1 <= written <= 10 * seconds + 2
    assert job.progress is not None
    assert job.progress.fraction == 1.0
    assert job.progress.counters == '{"done":4999}'


async def test_output_is_kept_in_order_without_a_gap(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.output", '{"number": 30}'))
    events = await jobs.events(job.id)
    assert [e.output for e in events if e.type is E.OUTPUT] == [
        f'{{"n":{number}}}' for number in range(30)
    ]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize(
    ("job_type", "limit"),
    [
        ("t.large_output", "HEADRACE_MAX_OUTPUT_BYTES"),
        ("t.large_result", "HEADRACE_MAX_RESULT_BYTES"),
    ],
)
async def test_oversized_output_or_result_names_its_limit(
    jobs: Platform, job_type: str, limit: str
) -> None:
    job = await jobs.until_ended(await jobs.submit(job_type, '{"number": 300000}'))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert limit in job.error.message


async def test_process_reports_and_runs_the_next_job(
    jobs: Platform,
) -> None:
    first = await jobs.until_ended(await jobs.submit("t.process", '{"number": 1}'))
    second = await jobs.until_ended(await jobs.submit("t.process", '{"number": 2}'))
    assert first.state is second.state is JobState.SUCCEEDED
    assert first.result is not None
    assert second.result is not None
    assert first.result.replace('"number":1', '"number":2') == second.result
    assert f'"pid":{os.getpid()},' not in first.result
    assert E.OUTPUT in await jobs.history(first.id)
    assert E.PROGRESSED in await jobs.history(first.id)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
async def test_handler_that_kills_its_process_fails_only_its_job(
    jobs: Platform, signum: signal.Signals
) -> None:
    job = await jobs.until_ended(await jobs.submit("t.crash", f'{{"number": {int(signum)}}}'))
    assert (job.state, job.attempt, job.retries_used) == (JobState.FAILED, 4, 0)
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == ("WORKER_LOST", False)
    assert await jobs.history(job.id) == [E.SUBMITTED, *[E.STARTED, E.WORKER_LOST] * 4]
    assert signum.name in job.error.message
    after = await jobs.until_ended(await jobs.submit("t.process", '{"number": 1}'))
    assert after.state is JobState.SUCCEEDED


async def test_wait_for_a_process_counts_only_toward_the_deadline(
    settings: Settings,
) -> None:
    one_process = settings.model_copy(update={"worker_processes": 1, "worker_cancel_grace": 0.1})
    async with platform(one_process, handlers()) as jobs:
        first = await jobs.submit("t.spin", timeout=timedelta(seconds=9))
        await jobs.until(first, E.OUTPUT)
        # The wait for a process is longer than the timeout, which suffices for a process start.
        waiting = await jobs.submit("t.process", '{"number": 1}', timeout=timedelta(seconds=8))
        late = await jobs.submit(
            "t.process", '{"number": 1}', deadline=datetime.now(UTC) + timedelta(seconds=1)
        )
        cancelled = await jobs.submit("t.process", '{"number": 1}')
        await jobs.until(cancelled, E.STARTED)
        await jobs.cancel(cancelled)
        assert (await jobs.until_ended(cancelled)).state is JobState.CANCELLED
        ended = await jobs.until_ended(late)
        assert (await jobs.history(late))[-1] is E.EXPIRED
        assert ended.state is JobState.FAILED
        assert (await jobs.job(first)).state is JobState.RUNNING
        ended = await jobs.until_ended(waiting)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
        await jobs.cancel(first)
        await jobs.until_ended(first)


async def test_exception_in_a_process_keeps_its_type_and_message(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.raise_in_process"))
    assert job.error is not None
    assert (job.error.type, job.error.message) == ("KeyError", "'missing'")


async def test_process_detects_a_payload_mismatch(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.process", '{"number": []}'))
    assert job.error is not None
    assert job.error.type == "PayloadMismatch"


@pytest.mark.parametrize(
    ("job_type", "error"),
    [
        ("t.exit", "SystemExit"),
        ("t.exit_thread", "SystemExit"),
        ("t.stop_iteration", "StopIteration"),
        ("t.unprintable_error", "UnprintableError"),
        ("t.exiting_error", "ExitingTextError"),
        ("t.invalid_json", "Unwritable"),
    ],
)
async def test_unusual_end_of_a_handler_fails_only_its_job(
    jobs: Platform, job_type: str, error: str
) -> None:
    others = await jobs.submit_many(4, "t.echo")
    job = await jobs.until_ended(await jobs.submit(job_type))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == error
    assert {(await jobs.until_ended(other)).state for other in others} == {JobState.SUCCEEDED}


@pytest.mark.parametrize(("is_final", "error"), [("true", "Miss?"), ("false", "LookupError")])
async def test_text_invalid_in_utf8_loses_only_one_character(
    jobs: Platform, is_final: str, error: str
) -> None:
    job = await jobs.until_ended(await jobs.submit("t.invalid_utf8", is_final))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert (job.error.type, job.error.message) == (error, "no such file: ?.csv")
    assert job.progress is not None
    assert job.progress.message == "reading ?.csv"


async def test_retry_wait_is_limited_to_seven_days(jobs: Platform) -> None:
    event = await jobs.until(await jobs.submit("t.retry_too_late"), E.RETRY_SCHEDULED)
    assert event.due_time is not None
    assert timedelta(days=6) < event.due_time - event.time <= timedelta(days=7)


async def test_many_outputs_emitted_at_once_are_kept(jobs: Platform) -> None:
    job = await jobs.until_ended(await jobs.submit("t.emit_at_once", '{"number": 500}'))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    outputs = [event.output for event in await jobs.events(job.id) if event.output is not None]
    assert outputs == [str(number) for number in range(500)]


async def test_delayed_job_never_starts_early(jobs: Platform) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1)
    job = await jobs.until_ended(await jobs.submit("t.echo", schedule_time=due))
    assert job.start_time is not None
    assert job.start_time >= due
    assert await jobs.history(job.id) == [E.SUBMITTED, E.DUE, E.STARTED, E.SUCCEEDED]
