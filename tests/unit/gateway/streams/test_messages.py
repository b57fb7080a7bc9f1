"""Packed messages contain all events, in order, within their limits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.messages import MAX_EVENTS, pack

MakeEvent = Callable[..., JobEvent]


def test_empty_list_makes_no_message():
    assert list(pack([])) == []


def test_messages_are_limited_by_event_count(make_event: MakeEvent):
    events = [make_event(seq=seq) for seq in range(1, 2 * MAX_EVENTS + 2)]
    packs = list(pack(events))
    assert [len(packed) for packed in packs] == [MAX_EVENTS, MAX_EVENTS, 1]
    assert list(chain(*packs)) == events


def test_messages_are_limited_by_size(make_event: MakeEvent):
    events = [make_event(output="x" * 100_000) for _ in range(5)]
    events.append(make_event(output="x" * 1_000_000))
    packs = list(pack(events))
    assert [len(packed) for packed in packs] == [2, 2, 1, 1]
    assert list(chain(*packs)) == events
