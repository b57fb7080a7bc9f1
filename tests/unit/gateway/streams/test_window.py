"""The window accepts visible events and returns settled events in log order."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_core.domain.job import JobEvent
from headrace_core.store.event_log import place_of
from headrace_gateway.streams.window import Window

MakeEvent = Callable[..., JobEvent]


def test_event_waits_for_all_earlier_transactions(make_event: MakeEvent):
    window = Window(max_events=9)
    late, early = make_event(xid=11, position=1), make_event(xid=10, position=2)
    window.add([late])
    assert window.take(horizon=10, limit=9) == []
    window.add([early])
    assert window.take(horizon=12, limit=9) == [early, late]
    assert window.place == (11, 1)


def test_event_added_twice_is_taken_once(make_event: MakeEvent):
    window = Window(max_events=9)
    events = [make_event(xid=10, position=n) for n in (1, 2, 3)]
    window.add(events)
    assert window.take(horizon=11, limit=2) == events[:2]
    window.add(events)
    assert window.take(horizon=11, limit=9) == events[2:]


def test_window_with_too_many_bytes_is_full(make_event: MakeEvent):
    window = Window(max_events=9, max_characters=10)
    events = [make_event(xid=xid, position=xid, output="x" * 4) for xid in (10, 11, 12, 13)]
    window.add(events[:2])
    assert window.take(horizon=11, limit=9) == events[:1]
    window.add(events[2:3])
    assert window.missing_through == 0
    window.add([events[2], events[3]])
    assert window.missing_through == 13
    window.move((13, 13), found_all=True)
    window.add(after := [make_event(xid=14, position=14, output="x" * 8)])
    assert window.take(horizon=15, limit=9) == after


def test_full_window_drops_events_and_marks_them_missing(make_event: MakeEvent):
    window = Window(max_events=2)
    window.add([make_event(xid=xid, position=xid) for xid in (10, 11, 12)])
    assert window.missing_through == 12
    later = make_event(xid=13, position=13)
    window.add([later])
    # While events are missing, none are taken.
    assert window.take(horizon=99, limit=9) == []
    window.move((12, 12), found_all=True)
    assert window.take(horizon=99, limit=9) == [later]


def test_take_stops_at_the_given_place(make_event: MakeEvent):
    window = Window(max_events=9)
    early, waiting = make_event(xid=10, position=1), make_event(xid=12, position=1)
    window.add([waiting])
    window.add([early])
    # The next run may add events between them.
    assert window.take(horizon=13, limit=9, through=(10, 1)) == [early]
    assert window.take(horizon=13, limit=9, through=(10, 1)) == []
    window.add([between := make_event(xid=11, position=1)])
    assert window.take(horizon=13, limit=9) == [between, waiting]


@given(
    writers=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    max_events=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_events_settle_once_in_order_for_any_commit_order(
    make_event: MakeEvent, writers: list[int], max_events: int, seed: int
):
    """End transactions in random order; missing events are read from a list, the store."""
    rng = random.Random(seed)
    transactions = {
        xid: [make_event(xid=xid, position=rng.randrange(2**40)) for _ in range(count)]
        for xid, count in enumerate(writers, start=1)
    }
    running = list(transactions)
    window, store, settled = Window(max_events=max_events), [], []
    while running:
        for xid in rng.sample(running, k=min(len(running), rng.randint(1, 3))):
            running.remove(xid)
            visible = sorted(transactions[xid], key=place_of)
            store = sorted([*store, *visible], key=place_of)
            window.add(visible)
        horizon = min(running, default=len(writers) + 1)
        for _ in range(rng.randint(0, 3)):
            if missing := window.missing_through:
                last = min(missing, horizon - 1)
                page = [e for e in store if window.place < place_of(e) and e.xid <= last][:2]
                settled += page
                window.move(
                    place_of(page[-1]) if page else None,
                    found_all=len(page) < 2 and last == missing,
                )
            else:
                settled += window.take(horizon, limit=2)
        assert settled == store[: len(settled)]
    while len(settled) < len(store):
        missing = window.missing_through
        page = [e for e in store if window.place < place_of(e) and e.xid <= missing]
        settled += page
        window.move(place_of(page[-1]) if page else None, found_all=True)
        settled += window.take(len(writers) + 1, limit=99)
    assert settled == store
