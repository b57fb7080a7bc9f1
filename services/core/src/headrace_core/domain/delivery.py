"""A job on its way to a worker."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from headrace_core.domain.ids import JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
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
        job_id, _, attempt = name.partition(":")
        return cls(job_id=JobId(UUID(job_id)), attempt=int(attempt))
