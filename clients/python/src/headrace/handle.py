"""Handles of submitted jobs and batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace._convert import from_job
from headrace._timing import check_seconds
from headrace.errors import JobCancelled, JobFailed, PermissionDenied, Refusal
from headrace.job import Job, JobOutput, JobState, SubmitOutcome
from headrace.job_log import JobLogLine
from headrace.v1 import job_pb2
from headrace.watch import JobWatch, LogWatch

if TYPE_CHECKING:
    from headrace.client import Client


def result_of(job: Job) -> Any:
    """Return the result of a job that has ended.

    Raises:
        JobFailed: the job ended as FAILED.
        JobCancelled: the job ended as CANCELLED.
        PermissionDenied: the job SUCCEEDED, but the credential lacks the right `payload:read`.
    """
    if job.state is JobState.FAILED:
        raise JobFailed(job)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job)
    if "result" in job.withheld_fields:
        message = f"the result of job {job.id} is withheld; the right 'payload:read' is missing"
        raise PermissionDenied(
            Refusal(
                code="PERMISSION_DENIED",
                reason="PERMISSION_DENIED",
                message=message,
                metadata={"right": "payload:read"},
            )
        )
    return job.result


class JobHandle:
    """A job that can be watched, awaited, cancelled and retried.

    Attributes:
        id: the job id; empty after `validate_only`.
        outcome: the result of the submit; None for a handle from `Client.job`.
    """

    def __init__(
        self,
        client: Client,
        job_id: str,
        *,
        message: job_pb2.Job | None = None,
        outcome: SubmitOutcome | None = None,
    ) -> None:
        self._client = client
        self._message = message
        self._job: Job | None = None
        self.id = job_id
        self.outcome = outcome

    @property
    def job(self) -> Job | None:
        """The job as it was submitted; None for a handle from `Client.job`."""
        # Decoded on first use, because programs that submit thousands of jobs rarely read them.
        message = self._message
        if message is not None:
            self._job, self._message = from_job(message), None
        return self._job

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    def watch(self, *, after_seq: int = 0) -> JobWatch:
        """Yield past and future events of the job; see `Client.watch_job`."""
        return self._client.watch_job(self.id, after_seq=after_seq)

    def output(self, *, after_seq: int = 0) -> AsyncGenerator[JobOutput, None]:
        """Yield the stored output of the job; see `Client.output`."""
        return self._client.output(self.id, after_seq=after_seq)

    def logs(self, *, after_position: int = 0) -> AsyncGenerator[JobLogLine, None]:
        """Yield the stored log lines of the job; see `Client.logs`."""
        return self._client.logs(self.id, after_position=after_position)

    def watch_logs(self, *, after_position: int = 0) -> LogWatch:
        """Yield past and future log lines of the job; see `Client.watch_logs`."""
        return self._client.watch_logs(self.id, after_position=after_position)

    async def result(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait until the job ends, and return its result.

        Args:
            timeout: the maximum wait in seconds. None: no limit.

        Raises:
            JobFailed: the job ended as FAILED.
            JobCancelled: the job ended as CANCELLED.
            PermissionDenied: the job SUCCEEDED, but the credential lacks the right `payload:read`.
            TimeoutError: the job did not end in time. The job continues.
            ValueError: `timeout` is NaN or negative.
            CallError: the job does not exist, or no gateway was reachable in time.
        """
        if timeout is not None:
            check_seconds("timeout", timeout, zero=True, endless=True)
        async with asyncio.timeout(timeout):
            job = await self.finished()
        return result_of(job)

    async def finished(self) -> Job:
        """Wait until the job ends in any state, and return the full job.

        Raises:
            CallError: the job does not exist, or no gateway was reachable in time.
        """
        job = self.job
        if job is None or job.state.terminal:
            job = await self.get()
        # The job may have been requeued after its stream ended.
        while not job.state.terminal:
            async with self._client.watch_job(
                self.id, after_seq=job.seq, include_job=True
            ) as events:
                async for _ in events:
                    pass
            job = events.ended_job or await self.get()
        return job

    async def get(self) -> Job:
        """Return the full job."""
        return await self._client.get(self.id)

    async def cancel(self, *, reason: str = "") -> Job:
        """Cancel the job; see `Client.cancel`."""
        return await self._client.cancel(self.id, reason=reason)

    async def retry(self, *, reason: str = "") -> Job:
        """Requeue the job; see `Client.retry`."""
        return await self._client.retry(self.id, reason=reason)


@dataclass(frozen=True, slots=True)
class Batch:
    """The jobs of one `submit_many` call, in the order of its argument.

    `id` selects the batch in filters and watches; it is empty after `validate_only`.
    """

    id: str
    jobs: tuple[JobHandle, ...]
    outcome: SubmitOutcome

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[JobHandle]:
        return iter(self.jobs)

    def __getitem__(self, index: int) -> JobHandle:
        return self.jobs[index]
