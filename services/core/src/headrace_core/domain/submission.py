"""New jobs and batches, and the results of submitting them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.job import Job, JobSpec, JsonText
from headrace_core.domain.trace import TraceContext

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Repeated(Generic[T]):
    """A sequence that stores each distinct item once.

    The jobs of a batch usually differ only in their payloads. `map` processes the other fields
    once for each distinct item.

    Attributes:
        distinct: the items.
        indexes: the index in `distinct` of the item at each position of the sequence.
    """

    distinct: Sequence[T]
    indexes: Sequence[int]

    def __len__(self) -> int:
        return len(self.indexes)

    def __iter__(self) -> Iterator[T]:
        return map(self.distinct.__getitem__, self.indexes)

    def __getitem__(self, position: int) -> T:
        return self.distinct[self.indexes[position]]

    def map(self, function: Callable[[T], U]) -> Repeated[U]:
        """Return the results of `function`, which is called once for each distinct item."""
        return Repeated([function(item) for item in self.distinct], self.indexes)


def fingerprint(spec: JobSpec, payload: JsonText) -> bytes:
    """Return 32 bytes that identify the content of a job.

    Args:
        spec: the spec as requested. It must not contain the handler's default queue, because that
            queue depends on the live workers.
        payload: the payload in its canonical form.
    """
    before, after = spec.around_payload()
    return hashlib.sha256(f"{before}{payload!r}{after}".encode()).digest()


def batch_fingerprint(specs: Repeated[JobSpec], payloads: Sequence[JsonText]) -> bytes:
    """Return 32 bytes that identify the content of all jobs of a batch, like `fingerprint`."""
    digest = hashlib.sha256()
    for (before, after), payload in zip(specs.map(JobSpec.around_payload), payloads, strict=True):
        digest.update(hashlib.sha256(f"{before}{payload!r}{after}".encode()).digest())
    return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to store.

    Args:
        id: the id of the job, if this call creates it.
        tenant: the tenant of the caller.
        spec: the spec, with the queue set.
        payload: the payload, as JSON text.
        request_id: the idempotency key.
        fingerprint: the fingerprint of `requested`; required with a request_id.
        requested: the spec as requested; required with a request_id.
        correlation_id: the x-request-id of the call. It is not part of the content.
        submitted_by: the principal of the call. It is not part of the content.
        trace_context: the trace context of the call. It is not part of the content.
    """

    id: JobId
    tenant: str
    spec: JobSpec
    payload: JsonText = "{}"
    request_id: str | None = None
    fingerprint: bytes | None = None
    requested: JobSpec | None = None
    correlation_id: str | None = None
    submitted_by: str | None = None
    trace_context: TraceContext | None = None

    def matches(self, stored: bytes) -> bool:
        """Return whether a stored fingerprint identifies the content of this job.

        Older versions computed it from the payload as sent, not from its canonical form.
        """
        return stored == self.fingerprint or (
            self.requested is not None and stored == fingerprint(self.requested, self.payload)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to store, all or nothing.

    Args:
        id: the id of the batch, if this call creates it.
        tenant: the tenant of the caller.
        specs: the specs of the jobs, with the queues set.
        payloads: the payload of each job.
        request_id: the idempotency key.
        fingerprint: the fingerprint of the batch; required with a request_id.
        requested: the specs as requested; required with a request_id.
        correlation_id: the x-request-id of the call. It is not part of the content.
        submitted_by: the principal of the call. It is not part of the content.
        trace_context: the trace context of the call. It is not part of the content.
    """

    id: BatchId
    tenant: str
    specs: Repeated[JobSpec]
    payloads: Sequence[JsonText]
    request_id: str | None = None
    fingerprint: bytes = b""
    requested: Repeated[JobSpec] | None = None
    correlation_id: str | None = None
    submitted_by: str | None = None
    trace_context: TraceContext | None = None

    def matches(self, stored: bytes) -> bool:
        """Return whether a stored fingerprint identifies this batch, like `NewJob.matches`."""
        return stored == self.fingerprint or (
            self.requested is not None
            and stored == batch_fingerprint(self.requested, self.payloads)
        )


class BatchJobs(Sequence[Job]):
    """The jobs of a batch in the BASIC view, in the order of the batch.

    Args:
        ids: the id of each job.
        templates: each job, with an arbitrary id. Jobs that differ only in their ids share an item.
    """

    __slots__ = ("ids", "templates")

    def __init__(self, ids: Sequence[JobId], templates: Repeated[Job]) -> None:
        self.ids = ids
        self.templates = templates

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Job]:
        return map(_with_id, self.templates, self.ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        return _with_id(self.templates[index], self.ids[index])


def _with_id(job: Job, job_id: JobId) -> Job:
    return job if job.id == job_id else replace(job, id=job_id)


class SubmittedBatch(NamedTuple):
    """A stored batch, and whether this call created it."""

    id: BatchId
    jobs: BatchJobs
    created: bool
