"""A job on its way to a worker, and in its hands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JsonText
from headrace_core.domain.retry import RetryOverrides

# What the database's integer holds.
_MAX_ATTEMPT = 2**31 - 1


class Delivery(NamedTuple):
    """A job that is on its way to a worker, for the attempt of this number."""

    job_id: JobId
    attempt: int

    def __str__(self) -> str:
        """`{job}:{attempt}`, which is its name in Redis as well."""
        return f"{self.job_id}:{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> Delivery:
        """The reverse of str().

        Raises:
            ValueError: it is not the name of a delivery.
        """
        job_id, _, number = name.partition(":")
        attempt = int(number)
        if not 1 <= attempt <= _MAX_ATTEMPT:
            raise ValueError(f"{attempt} is not the number of an attempt")
        return cls(job_id=JobId(UUID(job_id)), attempt=attempt)


class ClaimedJob(NamedTuple):
    """A job that its worker now owns. `time_left` is what its deadline leaves it.

    `unreadable` names the fields that cannot be read. A job that has any cannot run.
    """

    id: JobId
    tenant: str
    type: str
    queue: str
    payload: JsonText
    labels: dict[str, str]
    attempt: int
    retries_used: int
    worker_losses: int
    interruptions: int
    retry: RetryOverrides
    correlation_id: str | None
    timeout: timedelta | None
    deadline: datetime | None
    time_left: timedelta | None
    unreadable: Sequence[str] = ()
