"""Requests of limited size for any number of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Final

from headrace._convert import write_spec
from headrace.job import JobSpec
from headrace.v1 import job_service_pb2

# The limit of the contract.
MAX_BATCH: Final = 1_000
# The default limit of a gateway is 4 MiB; framing needs some of it.
_MAX_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
# Maximum overhead of a message inside another one: a tag and a length.
_FRAME: Final = 8


async def batches(
    jobs: Iterable[JobSpec] | AsyncIterable[JobSpec], size: int
) -> AsyncGenerator[job_service_pb2.BatchSubmitJobsRequest, None]:
    """Yield requests of at most `size` jobs, each within the byte limit.

    The same jobs are always divided in the same way. A job that is too large for any request gets
    its own request, which the gateway rejects.

    Raises:
        ValueError: `size` is not 1 to 1,000.
    """
    if not 1 <= size <= MAX_BATCH:
        raise ValueError(f"size is {size}; it must be 1 to {MAX_BATCH:,}")
    cut = _Cut(size)
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            if cut.add(job):
                yield cut.take()
    else:
        for job in jobs:
            if cut.add(job):
                yield cut.take()
    while cut:
        yield cut.take()


class _Cut:
    """The current request, and the next one, which starts with the job that did not fit."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._filling = job_service_pb2.BatchSubmitJobsRequest()
        self._bytes = 0
        self._next: job_service_pb2.BatchSubmitJobsRequest | None = None

    def __bool__(self) -> bool:
        return bool(self._filling.jobs)

    def add(self, job: JobSpec) -> bool:
        """Add a job; return whether the request is full and must be taken."""
        jobs = self._filling.jobs
        message = jobs.add()
        write_spec(job, message)
        size = message.ByteSize() + _FRAME
        self._bytes += size
        if self._bytes > _MAX_BYTES and len(jobs) > 1:
            self._next = job_service_pb2.BatchSubmitJobsRequest(jobs=[jobs.pop()])
            self._bytes = size
            return True
        return len(jobs) == self._size

    def take(self) -> job_service_pb2.BatchSubmitJobsRequest:
        """Return the full request, or the last one."""
        taken, following = self._filling, self._next
        if following is None:
            following = job_service_pb2.BatchSubmitJobsRequest()
            self._bytes = 0
        self._filling, self._next = following, None
        return taken
