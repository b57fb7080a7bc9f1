"""UUIDv7 as defined in RFC 9562."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch
from uuid import RFC_4122, UUID

from headrace_core.domain import ids
from headrace_core.domain.ids import uuid7, uuid7_bytes


def timestamp_parts(value: UUID) -> int:
    """Return the milliseconds and the 12-bit fraction of a UUIDv7."""
    return (value.int >> 80) << 12 | (value.int >> 64) & 0xFFF


def test_uuid7_has_the_fields_of_version_7() -> None:
    before = time.time_ns() // 1_000_000
    value = uuid7()
    after = time.time_ns() // 1_000_000
    assert value.version == 7
    assert value.variant == RFC_4122
    assert before <= value.int >> 80 <= after


def test_uuid7_increases_with_each_call() -> None:
    generated = [uuid7() for _ in range(10_000)]
    assert generated == sorted(set(generated))
    assert [str(value) for value in generated] == sorted(str(value) for value in generated)


def test_many_uuid7_increase_and_precede_the_next_one() -> None:
    before = uuid7()
    generated = [UUID(bytes=raw) for raw in uuid7_bytes(1000)]
    after = uuid7()
    assert [before, *generated, after] == sorted({before, *generated, after})
    assert {(value.version, value.variant) for value in generated} == {(7, RFC_4122)}
    assert uuid7_bytes(0) == []


def test_uuid7_is_unique_and_increases_across_threads() -> None:
    def draw(_: int) -> list[UUID]:
        return [uuid7() for _ in range(2_000)]

    with ThreadPoolExecutor(8) as threads:
        drawn = list(threads.map(draw, range(8)))
    for generated in drawn:
        assert generated == sorted(generated)
    stamps = [timestamp_parts(value) for generated in drawn for value in generated]
    assert len(set(stamps)) == len(stamps)


def test_uuid7_increases_while_the_clock_steps_back() -> None:
    first = uuid7()
    with patch.object(ids.time, "time_ns", return_value=0):
        second, third = uuid7(), uuid7()
    assert first < second < third < uuid7()


def test_uuid7_has_the_fraction_of_the_millisecond() -> None:
    ahead = time.time_ns() // 1_000_000 + 3_600_000
    with (
        patch.object(ids, "_last_stamp", 0),
        patch.object(ids.time, "time_ns", return_value=ahead * 1_000_000 + 500_000),
    ):
        assert timestamp_parts(uuid7()) == ahead << 12 | 2048


def test_uuid7_has_random_last_bits() -> None:
    random = {uuid7().int & (1 << 62) - 1 for _ in range(1000)}
    assert len(random) == 1000
    # Each of the 62 bits is set in some ids and unset in others.
    ones, zeros = 0, 0
    for bits in random:
        ones |= bits
        zeros |= ~bits
    assert ones == (1 << 62) - 1
    assert zeros & (1 << 62) - 1 == (1 << 62) - 1
