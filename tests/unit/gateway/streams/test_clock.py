"""The database's clock, from readings that take time."""

from __future__ import annotations

import time

import pytest

from headrace_core.store.event_log import ClockReading
from headrace_gateway.streams.gauges import DatabaseClock

# The database's clock minus the monotonic clock of this process.
CLOCK_OFFSET_S = 1_700_000_000.0


def reading(
    request_time: float, read: float, received: float, *, ahead: float = CLOCK_OFFSET_S
) -> ClockReading:
    """Return a clock reading taken between its request and its response."""
    return ClockReading(sent=request_time, time=read + ahead, received=received)


def offset(clock: DatabaseClock) -> float:
    return clock.now() - time.monotonic()


def test_reading_is_accurate_to_half_its_duration():
    clock = DatabaseClock()
    clock.add_reading(reading(10.0, 10.1, 10.4))
    assert offset(clock) == pytest.approx(CLOCK_OFFSET_S, abs=0.2)


def test_slow_readings_keep_the_bounds_of_fast_ones():
    clock = DatabaseClock()
    clock.add_reading(reading(10.0, 10.0005, 10.001))
    for second in range(11, 21):
        clock.add_reading(reading(second, second + 0.01, second + 0.9))
    assert offset(clock) == pytest.approx(CLOCK_OFFSET_S, abs=0.01)


def test_opposite_delays_of_readings_cancel_out():
    clock = DatabaseClock()
    clock.add_reading(reading(10.0, 10.0, 10.5))
    clock.add_reading(reading(11.0, 11.5, 11.5))
    assert offset(clock) == pytest.approx(CLOCK_OFFSET_S, abs=0.002)


def test_clock_follows_a_slow_drift():
    clock = DatabaseClock()
    for second in range(3600):
        drift = second * 0.0001
        clock.add_reading(
            reading(second, second + 0.001, second + 0.002, ahead=CLOCK_OFFSET_S + drift)
        )
    assert offset(clock) == pytest.approx(CLOCK_OFFSET_S + 0.36, abs=0.005)


@pytest.mark.parametrize("jump", [600, -600])
def test_clock_follows_a_jump_immediately(jump: int):
    clock = DatabaseClock()
    clock.add_reading(reading(10.0, 10.0, 10.001))
    clock.add_reading(reading(11.0, 11.0, 11.001, ahead=CLOCK_OFFSET_S + jump))
    assert offset(clock) == pytest.approx(CLOCK_OFFSET_S + jump, abs=0.01)
