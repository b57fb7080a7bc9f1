"""The intake of jobs: validation, the schema of the handler, and the choice of the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from headrace.v1 import job_pb2
from headrace_core.domain.errors import InvalidRequest, PayloadInvalid
from headrace_core.domain.ids import BatchId, uuid7
from headrace_core.domain.job import DEFAULT_QUEUE, JobSpec, JsonText
from headrace_core.domain.submission import NewBatch, Repeated, batch_fingerprint
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.handlers import HandlerCache
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.api.validate import Submissions, read_spec, read_specs
from headrace_gateway.api.validation import Violations
from headrace_gateway.grpc.document import canonical


class AcceptedSpec(NamedTuple):
    """A spec that may be stored.

    Attributes:
        spec: the spec with its queue decided.
        requested: the spec as requested. It identifies the content whichever workers are alive.
        has_worker: whether a live worker runs its type.
    """

    spec: JobSpec
    requested: JobSpec
    has_worker: bool


class AcceptedJob(NamedTuple):
    """A job that may be stored."""

    accepted: AcceptedSpec
    payload: JsonText


class AcceptedBatch(NamedTuple):
    """Jobs that may be stored, in the order given."""

    specs: Repeated[AcceptedSpec]
    payloads: Sequence[JsonText]

    def new_batch(
        self, *, tenant: str, request_id: str | None, correlation_id: str | None
    ) -> NewBatch:
        """Return the batch to store or to find."""
        requested = self.specs.map(lambda accepted: accepted.requested)
        return NewBatch(
            id=BatchId(uuid7()),
            tenant=tenant,
            specs=self.specs.map(lambda accepted: accepted.spec),
            payloads=self.payloads,
            request_id=request_id,
            # Without a request_id nothing is compared.
            fingerprint=(
                batch_fingerprint(requested, [canonical(payload) for payload in self.payloads])
                if request_id
                else b""
            ),
            requested=requested,
            correlation_id=correlation_id,
        )


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
    ) -> AcceptedJob:
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
        batch = self._accept(submission, handlers, found, deadline_after)
        return AcceptedJob(batch.specs[0], batch.payloads[0])

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
        return self._accept(submissions, handlers, found, deadline_after)

    def _accept(
        self,
        submissions: Submissions,
        handlers: Mapping[str, KnownHandler],
        found: Violations,
        deadline_after: timedelta | None,
    ) -> AcceptedBatch:
        specs, payloads, paths = submissions
        if deadline_after is not None:
            for spec, path in zip(specs, paths, strict=True):
                if spec.deadline is not None:
                    found.note(f"{path}.deadline", "must be absent with use_call_deadline")
        malformed = bool(found)
        refused: set[str] = set()
        known = specs.map(lambda spec: handlers.get(spec.type))
        for handler, payload, path in zip(known, payloads, paths, strict=True):
            if handler is not None and payload is not None and not handler.takes(payload.content):
                found.extend(handler.violations(payload.content, f"{path}.payload"))
                refused.add(handler.type)
        if malformed:
            raise InvalidRequest(found)
        if found:
            raise PayloadInvalid(", ".join(sorted(refused)), found)
        # Without a violation, each payload is a document.
        return AcceptedBatch(
            specs.map(lambda spec: _decide(spec, handlers.get(spec.type), deadline_after)),
            [payload.text for payload in payloads if payload is not None],
        )


def _decide(
    requested: JobSpec, handler: KnownHandler | None, deadline_after: timedelta | None
) -> AcceptedSpec:
    """Decide the queue, and the deadline if the call has one that applies to its jobs."""
    queue = requested.queue or (handler.queue if handler else DEFAULT_QUEUE)
    spec = requested
    if queue != requested.queue or deadline_after is not None:
        spec = replace(requested, queue=queue, deadline_after=deadline_after)
    return AcceptedSpec(spec, requested, handler is not None)
