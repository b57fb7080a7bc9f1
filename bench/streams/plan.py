"""How much is measured, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from bench.streams.following import Kind, Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of the benchmark.

    Args:
        streams: how many streams are open, for each measurement of latency.
        mix: which calls they are.
        rate: events a second, over all streams.
        rounds: how often each latency is measured.
        seconds: how long a round is.
        warm_up: seconds of the same load before the first round.
        idle: how many idle streams are opened; 0 leaves out what needs them.
        idle_loads: for each measurement of memory which call, and over how many connections.
        settle: seconds for which idle streams stay before memory is read, and during which their
            CPU time is measured. A mark comes every 10 to 15 s.
        channels: over how many connections all other streams are opened.
        burst: how many events are sent through one stream as fast as it goes; 0 for none.
        pollers: how many clients poll for comparison; 0 for none.
        intervals: the seconds between two calls of each, a measurement each.
        seed: of the order of events and of the sizes of commits.
    """

    streams: tuple[int, ...] = (1, 100, 1000)
    mix: Mix = Mix.BOTH
    rate: float = 1000.0
    rounds: int = 3
    seconds: float = 10.0
    warm_up: float = 3.0
    idle: int = 10_000
    idle_loads: tuple[tuple[Kind, int], ...] = ((Kind.JOBS, 10), (Kind.JOBS, 1), (Kind.JOB, 10))
    settle: float = 30.0
    channels: int = 10
    burst: int = 50_000
    pollers: int = 100
    intervals: tuple[float, ...] = (0.1,)
    seed: int = 1

    def quick(self) -> Plan:
        """The same in less than a minute: for a first look, and to see that it works."""
        return replace(
            self,
            rounds=1,
            seconds=3.0,
            warm_up=1.0,
            idle=1000,
            idle_loads=self.idle_loads[:1],
            settle=3.0,
            burst=10_000,
        )

    def document(self) -> dict[str, object]:
        """All of it, for JSON."""
        return asdict(self)
