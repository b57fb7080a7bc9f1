"""What a submitter sent becomes what is persisted: valid, checked against the handler's schema,
with its queue decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from headrace.v1 import job_pb2
from headrace_core.domain.errors import InvalidRequest, PayloadInvalid
from headrace_core.domain.job import DEFAULT_QUEUE, JobSpec, JsonText, fingerprints
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.handlers import HandlerCache
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.api.validate import Submission, read_spec, read_specs
from headrace_gateway.api.validation import Violations
from headrace_gateway.grpc.document import canonical


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that may be persisted.

    `spec` has its queue decided, `said` is what the submitter said, which names the content
    whichever workers are alive; `has_worker` tells whether a live worker has its type.
    """

    spec: JobSpec
    said: JobSpec
    has_worker: bool


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """Jobs that may be persisted, in the order given.

    Those that differ in their payloads alone share an `Accepted`, whose own payload means nothing:
    `payloads` has that of each.
    """

    jobs: Sequence[Accepted]
    payloads: Sequence[JsonText]

    def fingerprint(self) -> bytes:
        """32 bytes that name the content of all."""
        return self._fingerprint([canonical(payload) for payload in self.payloads])

    def former_fingerprint(self) -> bytes:
        """The same in the form of older versions, which compared the text of payloads."""
        return self._fingerprint(self.payloads)

    def _fingerprint(self, payloads: Sequence[JsonText]) -> bytes:
        said = [job.said for job in self.jobs]
        return hashlib.sha256(b"".join(fingerprints(said, payloads))).digest()


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
        self,
        tenant: str,
        message: job_pb2.JobSpec,
        found: Violations,
        *,
        deadline_after: timedelta | None = None,
    ) -> Accepted:
        """Validates the job of a request, which stands at `job`.

        Args:
            tenant: whose handlers apply.
            message: the job.
            found: what was found wrong with the rest of the request.
            deadline_after: what is left of the call, when its deadline is the job's.

        Raises:
            InvalidRequest: with every violation, those in `found` included; a PayloadInvalid when
                payloads that break their schemas are all that is wrong.
            LimitExceeded: something is too large.
        """
        submission = read_spec(message, "job", found, self.settings)
        handlers = await self._handlers.of(tenant)
        [accepted] = self._accept([submission], handlers, found, deadline_after)
        return accepted

    async def accept_batch(
        self,
        tenant: str,
        messages: Sequence[job_pb2.JobSpec],
        found: Violations,
        *,
        deadline_after: timedelta | None = None,
    ) -> AcceptedBatch:
        """Validates the jobs of a request, which stand at `jobs`.

        Args:
            tenant: whose handlers apply.
            messages: the jobs; what they hold is gone afterwards.
            found: what was found wrong with the rest of the request.
            deadline_after: as for one job.

        Raises:
            InvalidRequest: as for one job.
            LimitExceeded: something is too large.
        """
        submissions = read_specs(messages, "jobs", found, self.settings)
        handlers = await self._handlers.of(tenant)
        accepted = self._accept(submissions, handlers, found, deadline_after)
        # Nothing was found, so each is a document.
        return AcceptedBatch(accepted, [s.payload.text for s in submissions if s.payload])

    def _accept(
        self,
        submissions: Sequence[Submission],
        handlers: Mapping[str, KnownHandler],
        found: Violations,
        deadline_after: timedelta | None,
    ) -> list[Accepted]:
        if deadline_after is not None:
            for said, _, path in submissions:
                if said.deadline is not None:
                    found.note(f"{path}.deadline", "must be absent with use_call_deadline")
        malformed = bool(found)
        refused: set[str] = set()
        # By the spec, which alike jobs share.
        alike: dict[int, tuple[Accepted, KnownHandler | None]] = {}
        accepted = []
        for said, payload, path in submissions:
            known = alike.get(id(said))
            if known is None:
                handler = handlers.get(said.type)
                known = alike[id(said)] = (_decided(said, handler, deadline_after), handler)
            job, handler = known
            if handler is not None and payload is not None and not handler.takes(payload.content):
                found.extend(handler.violations(payload.content, f"{path}.payload"))
                refused.add(said.type)
            accepted.append(job)
        if malformed:
            raise InvalidRequest(found)
        if found:
            raise PayloadInvalid(", ".join(sorted(refused)), found)
        return accepted


def _decided(
    said: JobSpec, handler: KnownHandler | None, deadline_after: timedelta | None
) -> Accepted:
    """The job with its queue decided, and with the deadline of its call if that is its own."""
    queue = said.queue or (handler.queue if handler else DEFAULT_QUEUE)
    spec = said
    if queue != said.queue or deadline_after is not None:
        spec = replace(said, queue=queue, deadline_after=deadline_after)
    return Accepted(spec, said, handler is not None)
