"""Submits of tenants with a quota that the database counts; see `store/usage.py`."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_core.domain.errors import QuotaExceeded, RequestIdConflict
from headrace_core.domain.job import Job
from headrace_core.domain.submission import NewBatch, NewJob, SubmittedBatch
from headrace_core.domain.tenant import Quota, Quotas
from headrace_core.store.jobs.submit import find_submitted, submit_jobs
from headrace_core.store.jobs.submit_batch import find_batch, submit_batch
from headrace_core.store.sql.connection import Connection
from headrace_core.store.usage import admit, note_submitted


async def submit_metered_jobs(
    conn: Connection, jobs: Sequence[NewJob], *, quotas: Quotas
) -> list[Job | RequestIdConflict | QuotaExceeded]:
    """Store the jobs of one tenant that fit into its quotas, in a transaction.

    Returns:
        One result per job, in the order given: see `submit_jobs`, or the quota that the job
        exceeds. A repeated submit returns the earlier job even beyond a quota.
    """
    if not jobs:
        return []
    tenant = jobs[0].tenant
    sizes = [_size(job.payload) for job in jobs]
    admission = await admit(conn, tenant=tenant, quotas=quotas, payload_bytes=sizes)
    results: list[Job | RequestIdConflict | QuotaExceeded] = []
    if admission.jobs:
        results += await submit_jobs(conn, jobs[: admission.jobs])
        created = [
            size
            for job, size, result in zip(jobs, sizes, results, strict=False)
            if isinstance(result, Job) and result.id == job.id
        ]
        await note_submitted(conn, tenant=tenant, jobs=len(created), payload_bytes=sum(created))
    for job in jobs[admission.jobs :]:
        earlier = None if job.request_id is None else await find_submitted(conn, job)
        assert admission.refusal is not None
        results.append(admission.refusal if earlier is None else earlier)
    return results


async def submit_metered_batch(
    conn: Connection, batch: NewBatch, *, quotas: Quotas
) -> SubmittedBatch:
    """Store a whole batch if it fits into the quotas of its tenant, in a transaction.

    Raises:
        QuotaExceeded: the batch does not fit.
        RequestIdConflict: the request_id was used for a different batch.
    """
    sizes = [_size(payload) for payload in batch.payloads]
    admission = await admit(conn, tenant=batch.tenant, quotas=quotas, payload_bytes=sizes)
    if admission.refusal is not None:
        earlier = None if batch.request_id is None else await find_batch(conn, batch)
        if earlier is None:
            raise admission.refusal
        return earlier
    submitted = await submit_batch(conn, batch)
    if submitted.created:
        await note_submitted(conn, tenant=batch.tenant, jobs=len(sizes), payload_bytes=sum(sizes))
    return submitted


async def admit_requeue(conn: Connection, *, tenant: str, quotas: Quotas) -> None:
    """Count a job that the same transaction then returns to its queue.

    Raises:
        QuotaExceeded: the tenant has too many waiting jobs.
    """
    waiting: Quotas = {
        quota: limit for quota, limit in quotas.items() if quota is Quota.WAITING_JOBS
    }
    admission = await admit(conn, tenant=tenant, quotas=waiting, payload_bytes=[0])
    if admission.refusal is not None:
        raise admission.refusal
    await note_submitted(conn, tenant=tenant, jobs=1, payload_bytes=0, requeued=True)


def _size(payload: str) -> int:
    return len(payload.encode())
