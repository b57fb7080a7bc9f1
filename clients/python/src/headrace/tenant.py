"""Tenants, their quotas and their usage."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class TenantState(StrEnum):
    """The state of a tenant."""

    ACTIVE = "active"
    # Calls are rejected, and no job starts.
    SUSPENDED = "suspended"
    # Suspended, and its rows are being removed.
    DELETING = "deleting"
    # A value that this version of the client does not know.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Limits on the usage of a tenant; None for no limit, 0 to reject every call.

    Args:
        waiting_jobs: SCHEDULED, QUEUED and RETRYING jobs.
        payload_bytes: bytes of the payloads of all stored jobs.
        jobs_per_day: jobs submitted on a calendar day in UTC.
        submits_per_second: submitted jobs per second at each gateway.
        open_streams: open streams at each gateway.
    """

    waiting_jobs: int | None = None
    payload_bytes: int | None = None
    jobs_per_day: int | None = None
    submits_per_second: int | None = None
    open_streams: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantDeletion:
    """The progress of the deletion of a tenant.

    Args:
        request_time: the time of the request.
        jobs: the number of jobs at the start; None until they are counted.
        removed_jobs: the number of jobs that were removed.
    """

    request_time: datetime | None
    jobs: int | None
    removed_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant.

    Args:
        name: the name, unique within the installation.
        state: the state.
        create_time: the creation time.
        quotas: the limits that an admin of the tenant has set.
        ceilings: the limits that the platform has set; the lower one of a quota and its ceiling
            applies.
        deletion: the progress of the deletion; None unless the state is DELETING.
    """

    name: str
    state: TenantState
    create_time: datetime | None
    quotas: Quotas = field(default_factory=Quotas)
    ceilings: Quotas = field(default_factory=Quotas)
    deletion: TenantDeletion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """The usage of a tenant.

    Args:
        limits: the limits that apply.
        waiting_jobs: SCHEDULED, QUEUED and RETRYING jobs.
        running_jobs: RUNNING jobs.
        payload_bytes: bytes of the payloads of all stored jobs; None if the tenant has no limit on
            waiting jobs, payload bytes or jobs per day, because then they are not counted.
        jobs_today: jobs submitted today, in UTC; None like `payload_bytes`.
        open_streams: open streams at the gateway that answered.
    """

    limits: Quotas
    waiting_jobs: int
    running_jobs: int
    payload_bytes: int | None
    jobs_today: int | None
    open_streams: int
