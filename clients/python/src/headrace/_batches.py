"""Builds requests of limited size for any number of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Final

from headrace._convert import write_spec
from headrace.job import JobSpec
from headrace.v1 import job_service_pb2

# The maximum number of jobs in a batch, from the contract.
MAX_BATCH_JOBS: Final = 1_000
# A gateway's default limit is 4 MiB, including framing.
_MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
# Maximum overhead of a message inside another message: a tag and a length.
_MAX_FRAME_BYTES: Final = 8


async def batches(
    jobs: Iterable[JobSpec] | AsyncIterable[JobSpec], size: int
) -> AsyncGenerator[job_service_pb2.BatchSubmitJobsRequest, None]:
    """Yield requests with at most `size` jobs each, within the byte limit.

    The same jobs are always divided in the same way. A job that exceeds the byte limit gets its own
    request, which the gateway rejects.

    Raises:
        ValueError: `size` is not between 1 and 1,000.
    """
    if not 1 <= size <= MAX_BATCH_JOBS:
        raise ValueError(f"size is {size}; it must be 1 to {MAX_BATCH_JOBS:,}")
    builder = _RequestBuilder(size)
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            if builder.add(job):
                yield builder.take()
    else:
        for job in jobs:
            if builder.add(job):
                yield builder.take()
    while builder:
        yield builder.take()


class _RequestBuilder:
    """Builds one request after another. A job that does not fit starts the next request."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._current = job_service_pb2.BatchSubmitJobsRequest()
        self._bytes = 0
        self._next: job_service_pb2.BatchSubmitJobsRequest | None = None

    def __bool__(self) -> bool:
        return bool(self._current.jobs)

    def add(self, job: JobSpec) -> bool:
        """Add a job; return whether the request is full and must be taken."""
        jobs = self._current.jobs
        message = jobs.add()
        write_spec(job, message)
        size = message.ByteSize() + _MAX_FRAME_BYTES
        self._bytes += size
        if self._bytes > _MAX_REQUEST_BYTES and len(jobs) > 1:
            self._next = job_service_pb2.BatchSubmitJobsRequest(jobs=[jobs.pop()])
            self._bytes = size
            return True
        return len(jobs) == self._size

    def take(self) -> job_service_pb2.BatchSubmitJobsRequest:
        """Return the current request and start the next one."""
        taken, following = self._current, self._next
        if following is None:
            following = job_service_pb2.BatchSubmitJobsRequest()
            self._bytes = 0
        self._current, self._next = following, None
        return taken
