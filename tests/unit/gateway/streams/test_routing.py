"""Routing of events to streams, and the removal of routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from headrace_core.domain.errors import ShuttingDown, Unavailable
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import JobFilter
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.routing import Routes

MakeEvent = Callable[..., JobEvent]


@pytest.fixture
def gauges() -> Gauges:
    return Gauges()


@pytest.fixture
def routes(gauges: Gauges) -> Routes:
    return Routes(max_events=3, max_characters=1000, gauges=gauges)


def test_visible_event_is_routed_only_to_its_job(routes: Routes, make_event: MakeEvent):
    own, other = make_event(), make_event()
    with (
        routes.open_for_job(own.job_id) as first,
        routes.open_for_job(own.job_id) as second,
        routes.open_for_filter("default", JobFilter()) as (many, _),
    ):
        routes.route_visible([own, other])
        assert first.take(9) == second.take(9) == [own]
        assert not many


def test_settled_event_is_routed_once_per_matching_filter(routes: Routes, make_event: MakeEvent):
    event = make_event(queue="math", labels={"team": "ml", "stage": "test"})
    filters = (
        JobFilter(),
        JobFilter(queues=frozenset(["math", "mail"])),
        JobFilter(labels={"team": "ml", "stage": "test"}),
        JobFilter(job_ids=frozenset([event.job_id, JobId(uuid7())])),
    )
    for job_filter in filters:
        with (
            routes.open_for_filter("default", job_filter) as (mailbox, _),
            routes.open_for_filter("other", job_filter) as (foreign, _),
            routes.open_for_filter("default", JobFilter(queues=frozenset(["mail"]))) as (mail, _),
            routes.open_for_job(event.job_id) as single,
        ):
            routes.route_settled([event])
            assert mailbox.take(9) == [event]
            assert not foreign
            assert not mail
            assert not single


def test_full_mailbox_does_not_affect_other_streams(routes: Routes, make_event: MakeEvent):
    event = make_event()
    with routes.open_for_job(event.job_id) as slow, routes.open_for_job(event.job_id) as quick:
        for _ in range(5):
            routes.route_visible([event])
            assert quick.take(9) == [event]
        assert slow.overflowed
        assert not slow


def test_ended_stream_has_no_routes(routes: Routes, gauges: Gauges, make_event: MakeEvent):
    job_ids = frozenset(JobId(uuid7()) for _ in range(100))
    with routes.open_for_job(next(iter(job_ids))):
        with (
            suppress(ZeroDivisionError),
            routes.open_for_filter("default", JobFilter(job_ids=job_ids)),
        ):
            assert (gauges.job_streams, gauges.filter_streams) == (1, 1)
            raise ZeroDivisionError
        assert (gauges.job_streams, gauges.filter_streams) == (1, 0)
        assert routes
    assert not routes
    assert not routes._by_job
    assert not routes._by_key
    assert gauges == Gauges()


async def test_wait_for_a_stream_ends_when_one_opens(routes: Routes):
    async with asyncio.timeout(30):
        await routes.wait(0.001)
        waiting = asyncio.create_task(routes.wait(5))
        await asyncio.sleep(0)
        with routes.open_for_job(JobId(uuid7())):
            await waiting
            await routes.wait(5)
    await routes.wait(0.001)


async def test_failure_ends_open_streams(routes: Routes):
    with routes.open_for_job(JobId(uuid7())) as mailbox:
        routes.fail(Unavailable("postgresql"))
        with pytest.raises(Unavailable):
            await mailbox.wait()
    with routes.open_for_job(JobId(uuid7())) as mailbox:
        mailbox.check()


async def test_closed_routes_reject_streams(routes: Routes):
    with routes.open_for_filter("default", JobFilter()) as (mailbox, _):
        routes.close(ShuttingDown())
        with pytest.raises(ShuttingDown):
            await mailbox.wait()
    with pytest.raises(ShuttingDown), routes.open_for_job(JobId(uuid7())):
        pass
