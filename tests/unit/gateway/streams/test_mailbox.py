"""The mailbox is bounded and reports dropped events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from headrace_core.domain.errors import ShuttingDown
from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.routing import Mailbox

MakeEvent = Callable[..., JobEvent]


async def test_events_are_taken_once_in_order(make_event: MakeEvent):
    mailbox = Mailbox(max_events=3, max_characters=1000)
    events = [make_event(seq=seq) for seq in (1, 2, 3)]
    for event in events:
        mailbox.put(event)
    assert mailbox.take(2) == events[:2]
    assert mailbox.take(2) == events[2:]
    assert not mailbox


async def test_overflow_drops_all_events(make_event: MakeEvent):
    mailbox = Mailbox(max_events=2, max_characters=1000)
    for _ in range(3):
        mailbox.put(make_event())
    assert mailbox.overflowed
    assert mailbox.take(9) == []
    mailbox.put(make_event())
    assert mailbox.take(9) == []
    await mailbox.wait()

    mailbox.reopen()
    mailbox.put(event := make_event())
    assert not mailbox.overflowed
    assert mailbox.take(9) == [event]


async def test_labels_count_toward_the_size_of_a_mailbox(make_event: MakeEvent):
    mailbox = Mailbox(max_events=9, max_characters=10)
    mailbox.put(make_event(labels={"team": "ml"}))
    assert not mailbox.overflowed
    mailbox.put(make_event(labels={"a": "bcde"}))
    assert mailbox.overflowed


async def test_mailbox_with_too_many_bytes_overflows(make_event: MakeEvent):
    mailbox = Mailbox(max_events=9, max_characters=10)
    # A mailbox accepts a single oversized event, so its stream can continue.
    mailbox.put(large := make_event(output="x" * 11))
    assert not mailbox.overflowed
    assert mailbox.take(1) == [large]
    events = [make_event(seq=seq, output="x" * 5) for seq in (1, 2, 3)]
    mailbox.put(*events[:2])
    assert mailbox.take(1) == events[:1]
    mailbox.put(events[2])
    assert not mailbox.overflowed
    mailbox.put(make_event(output="x"))
    assert mailbox.overflowed
    mailbox.reopen()
    mailbox.put(*events[:2])
    assert mailbox.take(9) == events[:2]


async def test_event_ends_the_wait(make_event: MakeEvent):
    mailbox = Mailbox(max_events=2, max_characters=1000)
    waiting = asyncio.create_task(mailbox.wait())
    await asyncio.sleep(0)
    mailbox.put(make_event())
    async with asyncio.timeout(30):
        await waiting
    # With events in the mailbox, the wait returns immediately.
    await mailbox.wait()


async def test_wait_times_out():
    async with asyncio.timeout(30):
        await Mailbox(max_events=1, max_characters=1000).wait(0.0)
        await Mailbox(max_events=1, max_characters=1000).wait(0.001)


async def test_error_ends_the_wait_despite_events(make_event: MakeEvent):
    mailbox = Mailbox(max_events=2, max_characters=1000)
    waiting = asyncio.create_task(mailbox.wait())
    await asyncio.sleep(0)
    mailbox.fail(ShuttingDown())
    with pytest.raises(ShuttingDown):
        await waiting
    mailbox.put(make_event())
    with pytest.raises(ShuttingDown):
        await mailbox.wait()
    with pytest.raises(ShuttingDown):
        mailbox.check()


def test_oldest_is_the_oldest_unsent_event(make_event: MakeEvent):
    mailbox = Mailbox(max_events=2, max_characters=1000)
    assert mailbox.oldest is None
    first, second, third, fourth = (
        make_event(time=datetime.fromtimestamp(1000 + second, UTC)) for second in range(4)
    )
    mailbox.put(first)
    mailbox.put(second)
    assert mailbox.oldest == 1000
    # Events being sent count as unsent.
    mailbox.oldest_sending = mailbox.take(1)[0].time.timestamp()
    assert mailbox.oldest == 1000
    mailbox.oldest_sending = None
    assert mailbox.oldest == 1001
    # Dropped events count as well, until the stream has caught up.
    mailbox.put(third)
    mailbox.put(fourth)
    assert mailbox.overflowed
    assert mailbox.oldest == 1001
    mailbox.reopen()
    mailbox.put(fourth)
    assert mailbox.oldest == 1001
    mailbox.oldest_dropped = None
    assert mailbox.oldest == 1003
