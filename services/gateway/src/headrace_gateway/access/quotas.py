"""The quotas of tenants at this gateway: rates, open streams, and the rejected calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from headrace_core.domain.errors import QuotaExceeded
from headrace_core.domain.tenant import COUNTED, NO_QUOTAS, Quota, Quotas

# Seconds after which a caller may try again to open a stream.
_STREAM_RETRY: Final = 1.0
# Seconds after which a caller may retry if the quota is 0.
_BLOCKED_RETRY: Final = 60.0


@dataclass(slots=True)
class _Bucket:
    """Tokens of one tenant: `tokens` at the time `updated`. A negative number is a debt."""

    tokens: float
    updated: float


class TenantQuotas:
    """Enforces quotas that need no query, and returns those that the database enforces.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read: Callable[[str], Quotas] = _no_quotas
        self._clock = clock
        # Only tenants with the quota have a bucket.
        self._buckets: dict[str, _Bucket] = {}
        self._streams: Counter[str] = Counter()
        self.rejections: Counter[tuple[str, Quota]] = Counter()

    def follow(self, read: Callable[[str], Quotas]) -> None:
        """Enforce the quotas that `read` returns for a tenant; before this call there are none."""
        self._read = read

    def counted(self, tenant: str) -> Quotas:
        """Return the quotas that the database counts; usually none."""
        quotas = self._read(tenant)
        if not quotas or COUNTED.isdisjoint(quotas):
            return NO_QUOTAS
        return quotas

    def streams(self, tenant: str) -> int:
        """Return the number of open streams of a tenant."""
        return self._streams[tenant]

    def streams_by_tenant(self) -> Mapping[str, int]:
        """Return the open streams of each tenant with a quota of streams."""
        return {
            tenant: count
            for tenant, count in self._streams.copy().items()
            if Quota.OPEN_STREAMS in self._read(tenant)
        }

    def take_submit(self, tenant: str) -> None:
        """Count a submit of one job against the quota of submits per second.

        Raises:
            QuotaExceeded: the tenant has submitted too many jobs.
        """
        rate = self._read(tenant).get(Quota.SUBMITS_PER_SECOND)
        if rate is None:
            return
        bucket = self._refill(tenant, rate)
        if bucket.tokens < 1:
            raise self._too_fast(tenant, rate, 1 - bucket.tokens)
        bucket.tokens -= 1

    def take_further_jobs(self, tenant: str, jobs: int) -> None:
        """Count the jobs of a batch except its first one, which `take_submit` counted.

        A full bucket accepts a batch of any size and then has a debt, so a large batch is possible
        and the rate holds over time.

        Raises:
            QuotaExceeded: the tenant has submitted too many jobs.
        """
        rate = self._read(tenant).get(Quota.SUBMITS_PER_SECOND)
        if rate is None or jobs <= 0:
            return
        bucket = self._refill(tenant, rate)
        needed = min(jobs, rate - 1)
        if bucket.tokens < needed:
            missing = needed - bucket.tokens
            # The whole call is rejected.
            bucket.tokens += 1
            raise self._too_fast(tenant, rate, missing)
        bucket.tokens -= jobs

    def _refill(self, tenant: str, rate: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(tenant, _Bucket(rate, now))
        bucket.tokens = min(rate, bucket.tokens + rate * (now - bucket.updated))
        bucket.updated = now
        return bucket

    def _too_fast(self, tenant: str, rate: int, missing: float) -> QuotaExceeded:
        wait = missing / rate if rate else _BLOCKED_RETRY
        return self.reject(
            tenant,
            QuotaExceeded(Quota.SUBMITS_PER_SECOND, limit=rate, used=rate, retry_after=wait),
        )

    @contextmanager
    def stream(self, tenant: str) -> Iterator[None]:
        """Count an open stream while the block runs.

        Raises:
            QuotaExceeded: the tenant has too many open streams.
        """
        limit = self._read(tenant).get(Quota.OPEN_STREAMS)
        used = self._streams[tenant]
        if limit is not None and used >= limit:
            raise self.reject(
                tenant,
                QuotaExceeded(
                    Quota.OPEN_STREAMS, limit=limit, used=used, retry_after=_STREAM_RETRY
                ),
            )
        self._streams[tenant] += 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            if not self._streams[tenant]:
                del self._streams[tenant]

    def reject(self, tenant: str, error: QuotaExceeded) -> QuotaExceeded:
        """Count a rejected call for the metrics, and return its error."""
        self.rejections[tenant, Quota(error.quota)] += 1
        return error


def _no_quotas(_tenant: str) -> Quotas:
    return NO_QUOTAS
