"""The cached section of the event log equals the log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import BEGINNING, EventPage, Place, place_of
from headrace_gateway.streams.recent import RecentEvents

MakeEvent = Callable[..., JobEvent]


@pytest.fixture
def log(make_event: MakeEvent) -> list[JobEvent]:
    """Thirty events from ten transactions."""
    return [make_event(xid=10 + n // 3, position=n) for n in range(30)]


def read(log: list[JobEvent], after: Place, through: Place, limit: int) -> EventPage:
    """Read a range as PostgreSQL does."""
    rows = [event for event in log if after < place_of(event) <= through][:limit]
    end = place_of(rows[-1]) if rows else None
    return EventPage(events=rows, end=end, complete=len(rows) < limit)


def fetch(
    recent: RecentEvents, log: list[JobEvent], after: Place, through: Place, limit: int
) -> bool:
    """Read as a stream does; return whether PostgreSQL was needed."""
    page = recent.page(after=after, through=through, limit=limit)
    if page is None:
        recent.add(read(log, after, through, limit), after=after, through=through)
        return True
    truth = [event for event in log if after < place_of(event) <= through]
    assert page.events == truth[: len(page.events)]
    assert page.end == (place_of(page.events[-1]) if page.events else None)
    assert len(page.events) <= limit
    # The last page may not be marked as complete; an empty page follows then.
    assert not page.complete or len(page.events) == len(truth)
    assert page.complete or page.events
    return False


def test_new_section_has_no_page(log: list[JobEvent]):
    assert RecentEvents().page(after=BEGINNING, through=place_of(log[-1]), limit=9) is None


def test_page_of_large_events_ends_early(make_event: MakeEvent):
    recent = RecentEvents()
    large = [make_event(xid=10, position=n, output="x" * 400_000) for n in range(1, 8)]
    through = place_of(large[-1])
    recent.add(read(large, BEGINNING, through, 100), after=BEGINNING, through=through)
    sizes, after = [], BEGINNING
    while True:
        page = recent.page(after=after, through=through, limit=100)
        assert page is not None
        sizes.append(len(page.events))
        if page.complete:
            break
        assert page.end is not None
        after = page.end
    # A page includes the event that fills it.
    assert sizes == [3, 3, 1]


def test_page_read_once_serves_the_next_stream(log: list[JobEvent]):
    recent = RecentEvents()
    through = place_of(log[-1])
    assert fetch(recent, log, place_of(log[3]), through, 100)
    assert not fetch(recent, log, place_of(log[3]), through, 100)
    assert not fetch(recent, log, place_of(log[20]), through, 100)
    assert not fetch(recent, log, through, through, 100)
    # Earlier events require a read.
    assert fetch(recent, log, place_of(log[2]), through, 100)


def test_adjoining_pages_extend_both_ends(log: list[JobEvent]):
    recent = RecentEvents()
    through = place_of(log[-1])
    assert fetch(recent, log, place_of(log[9]), through, 5)
    assert fetch(recent, log, place_of(log[14]), through, 5)
    assert fetch(recent, log, place_of(log[5]), through, 5)
    page = recent.page(after=place_of(log[5]), through=through, limit=100)
    assert page is not None
    assert page.events == log[6:20]
    assert not page.complete


def test_newer_range_replaces_the_section(log: list[JobEvent]):
    recent = RecentEvents()
    assert fetch(recent, log, place_of(log[0]), place_of(log[5]), 100)
    assert fetch(recent, log, place_of(log[9]), place_of(log[20]), 100)
    assert not fetch(recent, log, place_of(log[9]), place_of(log[20]), 100)
    assert fetch(recent, log, place_of(log[0]), place_of(log[5]), 100)
    # An older page that does not adjoin the section is not kept.
    assert not fetch(recent, log, place_of(log[9]), place_of(log[20]), 100)


def test_oldest_events_are_dropped_by_number(log: list[JobEvent]):
    recent = RecentEvents(max_events=10)
    through = place_of(log[-1])
    assert fetch(recent, log, place_of(log[0]), through, 100)
    assert fetch(recent, log, place_of(log[18]), through, 100)
    assert not fetch(recent, log, place_of(log[19]), through, 100)


def test_oldest_events_are_dropped_by_size(make_event: MakeEvent):
    log = [make_event(xid=10, position=n, output="x" * 100) for n in range(30)]
    recent = RecentEvents(max_characters=1000)
    through = place_of(log[-1])
    assert fetch(recent, log, BEGINNING, through, 100)
    assert fetch(recent, log, place_of(log[18]), through, 100)
    assert not fetch(recent, log, place_of(log[19]), through, 100)


def test_pruned_event_is_not_a_gap(log: list[JobEvent]):
    recent = RecentEvents()
    page = EventPage(events=log[3:5], end=place_of(log[7]), complete=False)
    recent.add(page, after=place_of(log[2]), through=place_of(log[-1]))
    found = recent.page(after=place_of(log[2]), through=place_of(log[6]), limit=9)
    assert found == EventPage(events=log[3:5], end=place_of(log[4]), complete=True)


numbers = st.integers(0, 29)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reads=st.lists(st.tuples(numbers, numbers, st.integers(1, 12)), max_size=40),
    capacity=st.integers(1, 40),
)
def test_page_equals_the_log_after_any_reads(
    log: list[JobEvent], reads: list[tuple[int, int, int]], capacity: int
):
    recent = RecentEvents(max_events=capacity)
    places = [BEGINNING, *map(place_of, log)]
    assert all(earlier < later for earlier, later in pairwise(places))
    for first, length, limit in reads:
        last = min(first + length, len(log))
        fetch(recent, log, places[first], places[last], limit)
