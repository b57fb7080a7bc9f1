"""Packs events into messages, and schedules the marks of quiet streams."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from headrace_core.domain.job import JobEvent

# The maximum number of events in a message. Packing events into messages is necessary because
# grpc.aio can send only a limited number of messages a second.
MAX_EVENTS: Final = 200
# The maximum number of characters in the documents of a message; a single event may exceed it. A
# client accepts 4 MiB by default, and a character may need several bytes.
_MAX_CHARACTERS: Final = 256 * 1024


def pack(events: Iterable[JobEvent]) -> Iterator[list[JobEvent]]:
    """Split events into lists that each fit into a message; keep their order."""
    packed: list[JobEvent] = []
    size = 0
    for event in events:
        weight = weigh(event)
        if packed and (len(packed) == MAX_EVENTS or size + weight > _MAX_CHARACTERS):
            yield packed
            packed, size = [], 0
        packed.append(event)
        size += weight
    if packed:
        yield packed


def weigh(event: JobEvent) -> int:
    """Return the length of an event's documents and of its job's labels, in characters."""
    labels = event.labels
    weight = sum(map(len, labels)) + sum(map(len, labels.values())) if labels else 0
    if event.output is None and event.progress is None and event.error is None:
        return weight
    weight += len(event.output or "")
    if event.progress is not None:
        weight += len(event.progress.message) + len(event.progress.counters)
    if event.error is not None:
        weight += len(event.error.type) + len(event.error.message)
    return weight


# The minimum time until a mark, as a share of the interval. This jitter spreads the marks of
# streams that started together.
_MIN_INTERVAL_SHARE: Final = 0.75
# Marks that are due within the same period of this length, in seconds, are sent together. For ten
# thousand streams a batch takes 2 ms. Batches save half of the CPU time, because wake-ups cost most
# of it.
_BATCH_S: Final = 0.02


def next_mark(now: float, interval: float) -> float:
    """Return the time of the next mark of a quiet stream, at most `interval` seconds from now."""
    due = now + random.uniform(_MIN_INTERVAL_SHARE * interval, interval)
    return due - due % _BATCH_S
