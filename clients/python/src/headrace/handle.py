"""A job in the hands of who submitted it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace._convert import from_job
from headrace._timing import check_seconds
from headrace.errors import JobCancelled, JobFailed
from headrace.job import Job, JobOutput, JobState, SubmitOutcome
from headrace.v1 import job_pb2
from headrace.watch import JobWatch

if TYPE_CHECKING:
    from headrace.client import Client


class JobHandle:
    """A job, to be followed and waited for.

    Attributes:
        id: the job's id; empty when it was only validated.
        outcome: what the submit did; None when the handle was made from an id.
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
        """The job as it was when it was submitted; None when the handle was made from an id."""
        # Most of those who submit thousands of jobs look at none of them.
        message = self._message
        if message is not None:
            self._job, self._message = from_job(message), None
        return self._job

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    def watch(self, *, after_seq: int = 0) -> JobWatch:
        """Yields the job's events: the history, then each as it happens; see `Client.watch_job`."""
        return self._client.watch_job(self.id, after_seq=after_seq)

    def output(self, *, after_seq: int = 0) -> AsyncGenerator[JobOutput, None]:
        """Yields what the job's handler has emitted so far; see `Client.output`."""
        return self._client.output(self.id, after_seq=after_seq)

    async def result(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Waits for the job to end, and returns what its handler returned.

        Args:
            timeout: the longest wait, in seconds. None: as long as the job takes.

        Raises:
            JobFailed: it ended as FAILED.
            JobCancelled: it ended as CANCELLED.
            TimeoutError: it has not ended in time; it goes on.
            ValueError: `timeout` is NaN or negative.
            CallError: it does not exist, or no gateway answered for too long.
        """
        if timeout is not None:
            check_seconds("timeout", timeout, zero=True, endless=True)
        async with asyncio.timeout(timeout):
            job = await self.finished()
        if job.state is JobState.FAILED:
            raise JobFailed(job)
        if job.state is JobState.CANCELLED:
            raise JobCancelled(job)
        return job.result

    async def finished(self) -> Job:
        """Waits for the job to end, however it ends, and returns all of it.

        Raises:
            CallError: it does not exist, or no gateway answered for too long.
        """
        job = self.job
        if job is None or job.state.terminal:
            job = await self.get()
        # It can have been requeued between the end of the stream and the look at it.
        while not job.state.terminal:
            async with self.watch(after_seq=job.seq) as events:
                async for _ in events:
                    pass
            job = await self.get()
        return job

    async def get(self) -> Job:
        """The job as it is now."""
        return await self._client.get(self.id)

    async def cancel(self) -> Job:
        """Cancels the job; see `Client.cancel`."""
        return await self._client.cancel(self.id)

    async def retry(self) -> Job:
        """Requeues the job; see `Client.retry`."""
        return await self._client.retry(self.id)


@dataclass(frozen=True, slots=True)
class Batch:
    """The jobs of one `submit_many`, in the order asked.

    `id` names the batch in filters and watches; empty when it was only validated.
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
