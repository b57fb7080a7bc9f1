"""The numbers of streams, events and seconds of the benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from bench.streams.following import Kind, Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of the benchmark.

    Args:
        streams: the number of open streams, for each latency measurement.
        mix: the RPCs of the streams.
        rate: events per second on all streams.
        rounds: rounds per latency measurement.
        seconds: length of a round in seconds.
        warm_up: seconds of the same load before the first round.
        idle: the number of idle streams; 0 omits the measurements with idle streams.
        idle_loads: the RPC and the number of connections, for each memory measurement.
        settle: seconds that idle streams stay open before the memory reading. Their CPU time is
            measured over the same period. A stream receives a mark every 10 to 15 s.
        channels: the number of connections for the streams that are not idle.
        burst: the number of events sent through one stream at full speed; 0 omits the measurement.
        pollers: the number of polling clients; 0 omits the comparison.
        intervals: seconds between two calls of a polling client, for each measurement.
        seed: the random seed for the order of events and the sizes of commits.
    """

    streams: tuple[int, ...] = (1, 100, 1000)
    mix: Mix = Mix.BOTH
    rate: float = 1000.0
    rounds: int = 3
    seconds: float = 10.0
    warm_up: float = 3.0
    idle: int = 10_000
    idle_loads: tuple[tuple[Kind, int], ...] = ((Kind.JOBS, 10), (Kind.JOBS, 100), (Kind.JOB, 10))
    settle: float = 30.0
    channels: int = 10
    burst: int = 50_000
    pollers: int = 100
    intervals: tuple[float, ...] = (0.1,)
    seed: int = 1

    def quick(self) -> Plan:
        """Return a smaller plan that takes less than a minute."""
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
        """Return all fields as JSON data."""
        return asdict(self)
