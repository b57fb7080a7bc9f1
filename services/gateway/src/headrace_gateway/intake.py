"""What a submitter sent becomes what is persisted: valid, checked against the handler's schema,
with its queue decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.v1 import job_pb2
from headrace_core.domain.errors import InvalidRequest, PayloadInvalid
from headrace_core.domain.job import DEFAULT_QUEUE, JobSpec
from headrace_core.settings import Settings
from headrace_gateway.fields import Violations
from headrace_gateway.handlers import HandlerCache
from headrace_gateway.validate import read_spec


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that may be persisted.

    `spec` has its queue decided, `said` is what the submitter said; `has_worker` tells whether a
    live worker has its type.
    """

    spec: JobSpec
    said: JobSpec
    has_worker: bool

    def fingerprint(self) -> bytes:
        """32 bytes that name the content, whichever workers are alive."""
        return self.said.fingerprint()


def batch_fingerprint(jobs: Sequence[Accepted]) -> bytes:
    """32 bytes that name the content of a batch."""
    return hashlib.sha256(b"".join(job.fingerprint() for job in jobs)).digest()


class Intake:
    """Validates jobs.

    Args:
        settings: the limits.
        handlers: the schemas.
    """

    def __init__(self, *, settings: Settings, handlers: HandlerCache) -> None:
        self.settings = settings
        self._handlers = handlers

    async def accept(
        self, tenant: str, messages: Sequence[tuple[str, job_pb2.JobSpec]], found: Violations
    ) -> list[Accepted]:
        """Validates the jobs of a request, each given with its path.

        Args:
            tenant: whose handlers apply.
            messages: (path, job).
            found: what was found wrong with the rest of the request.

        Raises:
            InvalidRequest: with every violation, those in `found` included; a PayloadInvalid when
                payloads that break their schemas are all that is wrong.
            LimitExceeded: something is too large.
        """
        submissions = [read_spec(message, path, found, self.settings) for path, message in messages]
        handlers = await self._handlers.of(tenant)
        malformed = bool(found)
        refused: set[str] = set()
        accepted = []
        for submission in submissions:
            spec = submission.spec
            handler = handlers.get(spec.type)
            payload = submission.payload
            if handler is not None and payload is not None:
                before = len(found)
                found.extend(handler.violations(payload.content, f"{submission.path}.payload"))
                if len(found) > before:
                    refused.add(spec.type)
            if not spec.queue:
                spec = replace(spec, queue=handler.queue if handler else DEFAULT_QUEUE)
            accepted.append(Accepted(spec, submission.spec, handler is not None))
        if malformed:
            raise InvalidRequest(found)
        if found:
            raise PayloadInvalid(", ".join(sorted(refused)), found)
        return accepted
