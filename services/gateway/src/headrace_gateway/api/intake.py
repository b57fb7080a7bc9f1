"""Job intake: checks the rules and payload schemas, and selects a queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from headrace_core.domain.errors import InvalidRequest, PayloadInvalid
from headrace_core.domain.job import DEFAULT_QUEUE, JobSpec, JsonText
from headrace_core.domain.submission import (
    Repeated,
)
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.documents import Document, Payload
from headrace_gateway.api.job_rules import check_payload, check_spec
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.api.registrations import Registrations
from headrace_gateway.api.validation import Violations
from headrace_gateway.api.visibility import check_submittable
from headrace_gateway.calls.call import Call


class Intake:
    """Validates submitted jobs.

    Args:
        settings: the job limits.
        registrations: returns the payload schemas and the queues of the handlers.
    """

    def __init__(self, *, settings: Settings, registrations: Registrations) -> None:
        self._settings = settings
        self._registrations = registrations

    async def have_workers(self, call: Call, specs: Repeated[JobSpec]) -> bool:
        """Return whether live workers run the types of all jobs."""
        handlers = await self._registrations.handlers(call.tenant)
        return all(spec.type in handlers for spec in specs.distinct)

    async def accept(
        self,
        call: Call,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        *,
        paths: Sequence[str],
        deadline_after: timedelta | None,
        found: Violations,
    ) -> tuple[Repeated[JobSpec], Sequence[JsonText]]:
        """Validate jobs and select their queues.

        Args:
            call: the context of the request.
            specs, payloads: the jobs.
            paths: the field path of each job.
            deadline_after: the call's remaining time if its deadline applies to the jobs, or None.
            found: the violations found so far.

        Returns:
            The specs with their final queues, and the payloads.

        Raises:
            InvalidRequest: contains every violation. If the only violations are payloads that do
                not match their schemas, its subclass PayloadInvalid is raised.
            LimitExceeded: a payload or the labels exceed a limit.
        """
        documents = self._check_rules(specs, payloads, paths, found)
        if deadline_after is not None:
            for spec, path in zip(specs, paths, strict=True):
                if spec.deadline is not None:
                    found.note(f"{path}.deadline", "must be absent with use_call_deadline")
        malformed = bool(found)
        by_type = await self._registrations.handlers(call.tenant)
        handlers = specs.map(lambda spec: by_type.get(spec.type))
        mismatched: set[str] = set()
        for handler, document, path in zip(handlers, documents, paths, strict=True):
            if handler is None or document is None or handler.accepts(document.content):
                continue
            found.extend(handler.violations(document.content, f"{path}.payload"))
            mismatched.add(handler.type)
        if malformed:
            raise InvalidRequest(found)
        if found:
            raise PayloadInvalid(", ".join(sorted(mismatched)), found)
        resolved = specs.map(
            lambda spec: _resolve_spec(spec, by_type.get(spec.type), deadline_after)
        )
        check_submittable(call, resolved.distinct)
        # Without violations, every payload is a document.
        return resolved, [document.text for document in documents if document is not None]

    def _check_rules(
        self,
        specs: Repeated[JobSpec],
        payloads: Sequence[Payload],
        paths: Sequence[str],
        found: Violations,
    ) -> list[Document | None]:
        """Check jobs against the rules that do not depend on a handler; return their payloads."""
        documents: list[Document | None] = []
        valid: set[int] = set()
        for index, payload, path in zip(specs.indexes, payloads, paths, strict=True):
            if index not in valid:
                before = len(found)
                check_spec(specs.distinct[index], path, found, self._settings)
                # An invalid spec is checked again, because each job reports its own violations.
                if len(found) == before:
                    valid.add(index)
            documents.append(
                None
                if payload is None
                else check_payload(payload, f"{path}.payload", found, self._settings)
            )
        return documents


def _resolve_spec(
    spec: JobSpec, handler: KnownHandler | None, deadline_after: timedelta | None
) -> JobSpec:
    """Return a spec with its final queue, and with the call's deadline if it applies."""
    queue = spec.queue or (handler.queue if handler else DEFAULT_QUEUE)
    if queue == spec.queue and deadline_after is None:
        return spec
    return replace(spec, queue=queue, deadline_after=deadline_after)
