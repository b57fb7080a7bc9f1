"""Tenants, their quotas and their usage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from headrace_core.domain.access import TenantState


class Quota(StrEnum):
    """A limit on the usage of a tenant at one time or in a period.

    Attributes:
        WAITING_JOBS: SCHEDULED, QUEUED and RETRYING jobs, after a submit or a requeue.
        PAYLOAD_BYTES: bytes of the payloads of all stored jobs.
        JOBS_PER_DAY: submitted jobs on a calendar day in UTC.
        SUBMITS_PER_SECOND: submitted jobs per second at one gateway.
        OPEN_STREAMS: open streams at one gateway.
    """

    WAITING_JOBS = "waiting_jobs"
    PAYLOAD_BYTES = "payload_bytes"
    JOBS_PER_DAY = "jobs_per_day"
    SUBMITS_PER_SECOND = "submits_per_second"
    OPEN_STREAMS = "open_streams"


# The quotas that the database counts for all gateways.
COUNTED: Final = frozenset({Quota.WAITING_JOBS, Quota.PAYLOAD_BYTES, Quota.JOBS_PER_DAY})

# JSON numbers are exact up to this value.
MAX_QUOTA: Final = 2**53

# A missing quota means no limit.
Quotas: TypeAlias = Mapping[Quota, int]
NO_QUOTAS: Final[Quotas] = MappingProxyType({})


def effective_quotas(quotas: Quotas, ceilings: Quotas) -> Quotas:
    """Return the quotas that apply: the lower one of a tenant's quota and its ceiling."""
    return {
        quota: min(quotas.get(quota, ceilings.get(quota, 0)), ceilings.get(quota, MAX_QUOTA))
        for quota in Quota
        if quota in quotas or quota in ceilings
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """The progress of the deletion of a tenant.

    Attributes:
        request_time: the time of the request.
        jobs: the number of jobs at the start; None until they are counted.
        removed_jobs: the number of jobs that were removed.
    """

    request_time: datetime
    jobs: int | None
    removed_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant.

    Attributes:
        name: the name, unique within the installation.
        state: the state.
        create_time: the time of creation.
        quotas: the quotas that an admin of the tenant has set.
        ceilings: the quotas that the platform has set; they limit `quotas`.
        deletion: the progress of the deletion; None unless the state is DELETING.
    """

    name: str
    state: TenantState
    create_time: datetime
    quotas: Quotas = field(default_factory=dict, hash=False)
    ceilings: Quotas = field(default_factory=dict, hash=False)
    deletion: Deletion | None = None

    @property
    def effective(self) -> Quotas:
        """The quotas that apply."""
        return effective_quotas(self.quotas, self.ceilings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRules:
    """The part of a tenant that each call needs: its state and the quotas that apply."""

    state: TenantState
    quotas: Quotas = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The usage of a tenant.

    Attributes:
        waiting_jobs: SCHEDULED, QUEUED and RETRYING jobs.
        running_jobs: RUNNING jobs.
        payload_bytes: bytes of stored payloads; None without a counted quota, because the database
            then does not count them.
        jobs_today: submitted jobs since the start of the day in UTC, or since the tenant received a
            counted quota; None without a counted quota.
    """

    waiting_jobs: int
    running_jobs: int
    payload_bytes: int | None = None
    jobs_today: int | None = None
