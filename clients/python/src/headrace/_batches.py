"""Cutting any number of jobs into requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Final

from headrace._convert import write_spec
from headrace.job import JobSpec
from headrace.v1 import job_service_pb2

# The contract's.
MAX_BATCH: Final = 1_000
# A gateway takes requests of 4 MiB unless its settings say otherwise; some of that is framing.
_MAX_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
# What a message costs inside another one at most: a tag and a length.
_FRAME: Final = 8


async def batches(
    jobs: Iterable[JobSpec] | AsyncIterable[JobSpec], size: int
) -> AsyncGenerator[job_service_pb2.BatchSubmitJobsRequest, None]:
    """Yields requests of at most `size` jobs, none of them too large.

    The same jobs are always cut in the same places. A job that is too large for any request comes
    alone, for the gateway to refuse.

    Raises:
        ValueError: `size` is not 1 to 1,000.
    """
    if not 1 <= size <= MAX_BATCH:
        raise ValueError(f"size must be 1 to {MAX_BATCH}")
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
    """A request that is being filled, and the one behind it, which begins with what overflowed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._filling = job_service_pb2.BatchSubmitJobsRequest()
        self._bytes = 0
        self._behind: job_service_pb2.BatchSubmitJobsRequest | None = None

    def __bool__(self) -> bool:
        return bool(self._filling.jobs)

    def add(self, job: JobSpec) -> bool:
        """Adds a job; tells whether a request is full, which must then be taken."""
        jobs = self._filling.jobs
        message = jobs.add()
        write_spec(job, message)
        size = message.ByteSize() + _FRAME
        self._bytes += size
        if self._bytes > _MAX_BYTES and len(jobs) > 1:
            self._behind = job_service_pb2.BatchSubmitJobsRequest(jobs=[jobs.pop()])
            self._bytes = size
            return True
        return len(jobs) == self._size

    def take(self) -> job_service_pb2.BatchSubmitJobsRequest:
        """The request that is full, or the last one."""
        taken, behind = self._filling, self._behind
        if behind is None:
            behind = job_service_pb2.BatchSubmitJobsRequest()
            self._bytes = 0
        self._filling, self._behind = behind, None
        return taken
