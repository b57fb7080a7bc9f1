"""The mailbox: bounded, and it never drops without saying so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from headrace_core.domain.errors import ShuttingDown
from headrace_core.domain.job import JobEvent
from headrace_gateway.watch.mailbox import Mailbox

MakeEvent = Callable[..., JobEvent]


async def test_events_are_taken_in_their_order_and_once(make_event: MakeEvent):
    mailbox = Mailbox(room=3)
    events = [make_event(seq=seq) for seq in (1, 2, 3)]
    for event in events:
        mailbox.put(event)
    assert mailbox.take(2) == events[:2]
    assert mailbox.take(2) == events[2:]
    assert not mailbox


async def test_one_event_too_many_drops_all_and_says_so(make_event: MakeEvent):
    mailbox = Mailbox(room=2)
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


async def test_who_waits_is_woken_by_an_event(make_event: MakeEvent):
    mailbox = Mailbox(room=2)
    waiting = asyncio.create_task(mailbox.wait())
    await asyncio.sleep(0)
    mailbox.put(make_event())
    async with asyncio.timeout(5):
        await waiting
    # What is there already needs no waiting.
    await mailbox.wait()


async def test_a_wait_ends_after_its_time():
    async with asyncio.timeout(5):
        await Mailbox(room=1).wait(0.0)
        await Mailbox(room=1).wait(0.001)


async def test_an_error_ends_the_waiting_even_if_there_are_events(make_event: MakeEvent):
    mailbox = Mailbox(room=2)
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
