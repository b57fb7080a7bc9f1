"""The chain of the audit log: the check detects every change of an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace_core.domain.access import PrincipalKind
from headrace_core.domain.audit import (
    FIRST_HASH,
    AuditChain,
    AuditEntry,
    AuditEvent,
    ChainCheck,
    chain_hash,
)

START = datetime(2026, 11, 30, tzinfo=UTC)
ENTRY = AuditEntry(tenant="acme", principal="ada", method="AccessService/CreateApiKey")


def events(count: int) -> list[AuditEvent]:
    """Return a chain of events."""
    chain: list[AuditEvent] = []
    previous = FIRST_HASH
    for seq in range(1, count + 1):
        time = START + timedelta(microseconds=seq)
        event = AuditEvent(seq=seq, time=time, entry=ENTRY, hash=b"")
        previous = chain_hash(previous, event)
        chain.append(replace(event, hash=previous))
    return chain


def problems(found: Sequence[AuditEvent], stored: Sequence[AuditEvent]) -> list[str]:
    """Return the breaches that a check finds, with the bounds of the whole chain."""
    check = ChainCheck(
        AuditChain(
            tenant="acme",
            start_seq=0,
            start_hash=FIRST_HASH,
            seq=stored[-1].seq,
            hash=stored[-1].hash,
        )
    )
    return [*check.check(found), *check.end()]


def test_unchanged_chain_has_no_breach() -> None:
    assert problems(events(5), events(5)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda chain: chain[:2] + chain[3:], "events 3 to 3 are missing"),
        (lambda chain: chain[1:], "events 1 to 1 are missing"),
        (lambda chain: chain[:-2], "events 4 to 5 are missing"),
        (lambda _: events(6), "events 6 to 6 are beyond the end of the chain"),
    ],
)
def test_missing_and_additional_events_are_detected(
    change: Callable[[list[AuditEvent]], list[AuditEvent]], problem: str
) -> None:
    assert problems(change(events(5)), events(5)) == [problem]


OTHER: dict[str, Any] = {
    "kind": PrincipalKind.USER,
    "allowed": False,
    "count": 2,
}


@pytest.mark.parametrize("name", [field.name for field in fields(AuditEntry)])
def test_change_of_each_field_is_detected(name: str) -> None:
    chain = events(3)
    chain[1] = replace(chain[1], entry=replace(ENTRY, **{name: OTHER.get(name, "other")}))
    assert problems(chain, events(3)) == ["event 2 or the event before it was changed"]


def test_change_of_the_time_is_detected() -> None:
    chain = events(3)
    chain[1] = replace(chain[1], time=START)
    assert problems(chain, events(3)) == ["event 2 or the event before it was changed"]


def test_recomputed_end_is_detected() -> None:
    chain = events(3)
    changed = replace(chain[2], entry=replace(ENTRY, principal="eve"))
    chain[2] = replace(changed, hash=chain_hash(chain[1].hash, changed))
    assert problems(chain, events(3)) == ["event 3 differs from the end of the chain"]


def test_text_cannot_move_between_fields() -> None:
    event = events(1)[0]
    moved = replace(event, entry=replace(ENTRY, principal="ad", principal_tenant="a"))
    assert chain_hash(FIRST_HASH, moved) != event.hash


def test_texts_of_an_entry_are_single_bounded_lines() -> None:
    entry = AuditEntry(tenant="acme", method="m", target="a\nb" * 1000, reason="\0")
    assert (len(entry.target), entry.reason) == (500, "?")
    assert "\n" not in entry.target
