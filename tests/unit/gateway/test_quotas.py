"""The quotas of tenants that a gateway enforces without a query."""

from __future__ import annotations

import pytest

from headrace_core.domain.errors import QuotaExceeded
from headrace_core.domain.tenant import NO_QUOTAS, Quota, Quotas, effective_quotas
from headrace_gateway.access.quotas import TenantQuotas
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas_of(clock: Clock, quotas: Quotas) -> TenantQuotas:
    """Return the quotas of a gateway on which only the tenant `acme` has quotas."""
    limiter = TenantQuotas(clock=clock)
    limiter.follow(lambda tenant: quotas if tenant == "acme" else NO_QUOTAS)
    return limiter


def test_tenant_without_quotas_is_not_limited(clock: Clock) -> None:
    limiter = quotas_of(clock, {Quota.SUBMITS_PER_SECOND: 1, Quota.OPEN_STREAMS: 0})
    for _ in range(100):
        limiter.take_submit("other")
    with limiter.stream("other"):
        assert limiter.streams("other") == 1
    assert limiter.rejections == {}


def test_rate_allows_one_second_of_submits_at_once(clock: Clock) -> None:
    limiter = quotas_of(clock, {Quota.SUBMITS_PER_SECOND: 3})
    for _ in range(3):
        limiter.take_submit("acme")
    with pytest.raises(QuotaExceeded) as rejected:
        limiter.take_submit("acme")
    assert (rejected.value.quota, rejected.value.limit) == ("submits_per_second", 3)
    assert rejected.value.retry_after == pytest.approx(1 / 3)
    assert limiter.rejections == {("acme", Quota.SUBMITS_PER_SECOND): 1}
    clock.now += rejected.value.retry_after + 0.001
    limiter.take_submit("acme")


def test_large_batch_delays_later_submits(clock: Clock) -> None:
    limiter = quotas_of(clock, {Quota.SUBMITS_PER_SECOND: 10})
    limiter.take_submit("acme")
    limiter.take_further_jobs("acme", 99)
    with pytest.raises(QuotaExceeded) as rejected:
        limiter.take_submit("acme")
    assert rejected.value.retry_after == pytest.approx(9.1)
    clock.now += 9.2
    limiter.take_submit("acme")


def test_rejected_batch_takes_no_tokens(clock: Clock) -> None:
    limiter = quotas_of(clock, {Quota.SUBMITS_PER_SECOND: 10})
    limiter.take_submit("acme")
    limiter.take_submit("acme")
    with pytest.raises(QuotaExceeded):
        limiter.take_further_jobs("acme", 99)
    # Nine tokens are left.
    limiter.take_submit("acme")
    limiter.take_further_jobs("acme", 8)


def test_quota_of_zero_rejects_each_submit(clock: Clock) -> None:
    limiter = quotas_of(clock, {Quota.SUBMITS_PER_SECOND: 0})
    clock.now += 1000
    with pytest.raises(QuotaExceeded) as rejected:
        limiter.take_submit("acme")
    assert rejected.value.retry_after == 60


def test_closed_stream_can_be_replaced(clock: Clock) -> None:
    limiter = quotas_of(clock, {Quota.OPEN_STREAMS: 2})
    with limiter.stream("acme"):
        with limiter.stream("acme"):
            with pytest.raises(QuotaExceeded) as rejected, limiter.stream("acme"):
                pass
            assert (rejected.value.limit, rejected.value.used) == (2, 2)
        with limiter.stream("acme"):
            assert limiter.streams_by_tenant() == {"acme": 2}
    assert limiter.streams_by_tenant() == {}


def test_counted_quotas_are_those_of_the_database(clock: Clock) -> None:
    rates: Quotas = {Quota.SUBMITS_PER_SECOND: 1, Quota.OPEN_STREAMS: 1}
    assert quotas_of(clock, rates).counted("acme") == {}
    counted = {**rates, Quota.WAITING_JOBS: 5}
    assert quotas_of(clock, counted).counted("acme") == counted
    assert quotas_of(clock, counted).counted("other") == {}


def test_lower_of_quota_and_ceiling_applies() -> None:
    quotas = {Quota.WAITING_JOBS: 10, Quota.OPEN_STREAMS: 5}
    ceilings = {Quota.WAITING_JOBS: 7, Quota.OPEN_STREAMS: 8, Quota.JOBS_PER_DAY: 3}
    assert effective_quotas(quotas, ceilings) == {
        Quota.WAITING_JOBS: 7,
        Quota.OPEN_STREAMS: 5,
        Quota.JOBS_PER_DAY: 3,
    }
