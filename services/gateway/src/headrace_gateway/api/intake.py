"""The intake of jobs: rules, payload schemas, and the choice of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from headrace_core.domain.errors import InvalidRequest, PayloadInvalid
from headrace_core.domain.ids import BatchId, uuid7
from headrace_core.domain.job import DEFAULT_QUEUE, JobSpec, JsonText
from headrace_core.domain.submission import (
    NewBatch,
    NewJob,
    Repeated,
    batch_fingerprint,
    fingerprint,
)
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.new_jobs import new_ids
from headrace_gateway.api.documents import Document, Payload, canonical
from headrace_gateway.api.job_rules import check_payload, check_spec
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.api.registrations import Registrations
from headrace_gateway.api.validation import Violations, call_deadline, check_request_id
from headrace_gateway.calls.call import Call


class Accepted(NamedTuple):
    """Valid jobs: their specs as requested and with their queues decided, and their payloads."""

    requested: Repeated[JobSpec]
    specs: Repeated[JobSpec]
    payloads: Sequence[JsonText]
    has_workers: bool


class Intake:
    """Validates jobs to submit.

    Args:
        settings: the limits of jobs.
        registrations: the payload schemas and the queues of the handlers.
    """

    def __init__(self, *, settings: Settings, registrations: Registrations) -> None:
        self._settings = settings
        self._registrations = registrations

    async def accept(
        self,
        call: Call,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        *,
        paths: Sequence[str],
        request_id: str | None,
        use_call_deadline: bool,
        found: Violations,
    ) -> Accepted:
        """Validate jobs and decide their queues.

        Args:
            call: the call.
            specs, payloads: the jobs.
            paths: the field path of each job.
            request_id, use_call_deadline: as for `submit`.
            found: the violations found so far.

        Raises:
            InvalidRequest: with every violation; PayloadInvalid if payloads that do not match
                their schemas are the only ones.
            LimitExceeded: a payload or the labels of a job exceed a limit.
        """
        check_request_id(request_id, found)
        deadline_after = call_deadline(call, use_call_deadline, found)
        documents = self._check(specs, payloads, paths, found)
        if deadline_after is not None:
            for spec, path in zip(specs, paths, strict=True):
                if spec.deadline is not None:
                    found.note(f"{path}.deadline", "must be absent with use_call_deadline")
        malformed = bool(found)
        by_type = await self._registrations.handlers(call.tenant)
        handlers = specs.map(lambda spec: by_type.get(spec.type))
        mismatched: set[str] = set()
        for handler, document, path in zip(handlers, documents, paths, strict=True):
            if handler is None or document is None or handler.takes(document.content):
                continue
            found.extend(handler.violations(document.content, f"{path}.payload"))
            mismatched.add(handler.type)
        if malformed:
            raise InvalidRequest(found)
        if found:
            raise PayloadInvalid(", ".join(sorted(mismatched)), found)
        return Accepted(
            requested=specs,
            specs=specs.map(lambda spec: _decide(spec, by_type.get(spec.type), deadline_after)),
            # Without a violation each payload is a document.
            payloads=[document.text for document in documents if document is not None],
            has_workers=None not in handlers.distinct,
        )

    def _check(
        self,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        paths: Sequence[str],
        found: Violations,
    ) -> list[Document | None]:
        """Check jobs by the rules that are the same for every handler; return their payloads."""
        documents: list[Document | None] = []
        valid: set[int] = set()
        for place, payload, path in zip(specs.places, payloads, paths, strict=True):
            if place not in valid:
                before = len(found)
                check_spec(specs.distinct[place], path, found, self._settings)
                # Every job reports its own violations.
                if len(found) == before:
                    valid.add(place)
            documents.append(
                None
                if payload is None
                else check_payload(payload, f"{path}.payload", found, self._settings)
            )
        return documents


def new_job(call: Call, accepted: Accepted, request_id: str | None) -> NewJob:
    """Return the only accepted job, ready to be stored or found."""
    requested, payload = accepted.requested.distinct[0], accepted.payloads[0]
    return NewJob(
        id=new_ids(1)[0],
        tenant=call.tenant,
        spec=accepted.specs.distinct[0],
        payload=payload,
        request_id=request_id,
        # Contents are compared only for the same request_id.
        fingerprint=fingerprint(requested, canonical(payload)) if request_id else None,
        requested=requested,
        correlation_id=call.correlation_id,
    )


def new_batch(call: Call, accepted: Accepted, request_id: str | None) -> NewBatch:
    """Return the accepted jobs as a batch, ready to be stored or found."""
    requested, payloads = accepted.requested, accepted.payloads
    return NewBatch(
        id=BatchId(uuid7()),
        tenant=call.tenant,
        specs=accepted.specs,
        payloads=payloads,
        request_id=request_id,
        fingerprint=(
            batch_fingerprint(requested, [canonical(payload) for payload in payloads])
            if request_id
            else b""
        ),
        requested=requested,
        correlation_id=call.correlation_id,
    )


def _decide(
    spec: JobSpec, handler: KnownHandler | None, deadline_after: timedelta | None
) -> JobSpec:
    """Return a spec with its queue decided, and with the deadline of its call if it has none."""
    queue = spec.queue or (handler.queue if handler else DEFAULT_QUEUE)
    if queue == spec.queue and deadline_after is None:
        return spec
    return replace(spec, queue=queue, deadline_after=deadline_after)
