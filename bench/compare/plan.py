"""How much is measured, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of the comparison.

    Args:
        figures: which, by their letters; see docs/benchmarks.md.
        contestants: names of who takes part; empty: all.
        rounds: how often each is measured, the contestants in turn in each round.
        drain: the numbers of waiting jobs (A); those beyond the first are drained once, and not by
            the slow ones.
        slow_jobs: the number of jobs for contestants that are slow (A, D).
        workers: the numbers of worker processes (A).
        drain_limit: seconds after which the rate of what was handled stands.
        fill_limit: seconds after which no more jobs are put in.
        accept_seconds: about how long each measurement of B takes; its counts follow from that.
        in_flight: single submits of one client at a time (B).
        batch: jobs of a bulk submit (B).
        clients: processes that submit at the same time (B), with `in_flight` in all.
        rate: submits a second (C).
        warm_up: seconds of the same load before each round (C).
        seconds: seconds of a round (C).
        jobs: how many jobs go from end to end (D, E).
        waiting: how many jobs wait meanwhile (E); 0 here and below leaves it out.
        finished: how many jobs have ended before (E).
        queues: over how many queues the jobs are spread (E).
        delayed: how many jobs are due in the same second (E).
        memory_jobs: after how many jobs memory is read again (F).
        rest: seconds of rest before memory is read (F).
        gateways: how many gateways Headrace has.
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
        """The same in less than three minutes: for a first look, and to see that it works."""
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
        """All of it, for JSON."""
        return asdict(self)
