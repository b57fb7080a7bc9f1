"""Cutting any number of jobs into requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Final

from headrace._convert import to_spec
from headrace.job import JobSpec
from headrace.v1 import job_pb2

# The contract's.
MAX_BATCH: Final = 1_000
# A gateway takes requests of 4 MiB unless its settings say otherwise; some of that is framing.
_MAX_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
# What a message costs inside another one at most: a tag and a length.
_FRAME: Final = 8


async def batches(
    jobs: Iterable[JobSpec] | AsyncIterable[JobSpec], size: int
) -> AsyncGenerator[list[job_pb2.JobSpec], None]:
    """Yields the jobs in lists of at most `size` that fit in a request.

    The same jobs are always cut in the same places. A job that is too large for any request comes
    alone, for the gateway to refuse.

    Raises:
        ValueError: `size` is not 1 to 1,000.
    """
    if not 1 <= size <= MAX_BATCH:
        raise ValueError(f"size must be 1 to {MAX_BATCH}")
    batch: list[job_pb2.JobSpec] = []
    batch_bytes = 0
    async for job in _each(jobs):
        spec = to_spec(job)
        spec_bytes = spec.ByteSize() + _FRAME
        if batch and (len(batch) == size or batch_bytes + spec_bytes > _MAX_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(spec)
        batch_bytes += spec_bytes
    if batch:
        yield batch


async def _each(
    jobs: Iterable[JobSpec] | AsyncIterable[JobSpec],
) -> AsyncGenerator[JobSpec, None]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job
