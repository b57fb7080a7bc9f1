"""The numbers of jobs, rounds and seconds of the comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of the comparison.

    Args:
        figures: the letters of the figures; see docs/benchmarks.md.
        contestants: the names of the contestants; empty for all.
        rounds: rounds per measurement; the contestants take turns in each round.
        drain: the numbers of waiting jobs (A). All except the first are drained only once, and not
            by slow contestants.
        slow_jobs: the number of jobs for slow contestants (A, D).
        workers: the numbers of worker processes (A).
        drain_limit: seconds after which a drain ends; its rate is then that of the handled jobs.
        fill_limit: seconds after which a fill stops creating jobs.
        accept_seconds: approximate duration of a measurement in seconds (B); determines its number
            of jobs.
        in_flight: concurrent single submits of one client (B).
        batch: jobs per bulk submit (B).
        clients: concurrent client processes (B), with `in_flight` submits in total.
        rate: submits per second (C).
        warm_up: seconds of the same load before each round (C).
        seconds: length of a round in seconds (C).
        jobs: jobs per end-to-end run (D, E).
        waiting: waiting jobs in the database (E); 0 omits the case.
        finished: finished jobs in the database (E); 0 omits the case.
        queues: queues that share the jobs (E); 0 omits the case.
        delayed: jobs due in the same second (E); 0 omits the case.
        memory_jobs: jobs between the two memory readings (F).
        rest: idle seconds before each memory reading (F).
        gateways: the number of Headrace gateways.
    """

    figures: tuple[str, ...] = ("A", "B", "C", "D", "E", "F")
    contestants: tuple[str, ...] = ()
    rounds: int = 2
    drain: tuple[int, ...] = (20_000, 100_000)
    slow_jobs: int = 3_000
    workers: tuple[int, ...] = (1, 2)
    drain_limit: float = 8.0
    fill_limit: float = 30.0
    accept_seconds: float = 2.0
    in_flight: int = 64
    batch: int = 1000
    clients: int = 4
    rate: float = 50.0
    warm_up: float = 2.0
    seconds: float = 7.0
    jobs: int = 20_000
    waiting: int = 1_000_000
    finished: int = 10_000_000
    queues: int = 100
    delayed: int = 1_000
    memory_jobs: int = 1_000_000
    rest: float = 5.0
    gateways: int = 1

    def quick(self) -> Plan:
        """Return a smaller plan that takes less than three minutes."""
        return replace(
            self,
            contestants=("headrace", "pgqueuer", "oban", "celery", "fastapi_celery"),
            rounds=1,
            drain=(10_000,),
            slow_jobs=1_000,
            drain_limit=5.0,
            fill_limit=5.0,
            accept_seconds=1.0,
            clients=2,
            warm_up=1.0,
            seconds=3.0,
            jobs=10_000,
            waiting=50_000,
            finished=50_000,
            queues=0,
            delayed=0,
            memory_jobs=20_000,
            rest=1.0,
        )

    def document(self) -> dict[str, object]:
        """Return all fields as JSON data."""
        return asdict(self)
