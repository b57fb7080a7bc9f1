"""What a contestant of the comparison must do, and what all of them do alike.

Each is a folder beside this file with `peer.py`, `peer.toml`, `requirements.in` and the pinned
`requirements.txt`. `peer.py` runs in an environment of its own, so this file needs the standard
library alone, and the harness (`bench/compare`) talks to it by lines of JSON alone:

    python bench/peers/NAME/peer.py control     reads requests on stdin, answers on stdout (`serve`)
    python bench/peers/NAME/peer.py worker      takes jobs (`ready`, `count`) until SIGTERM
    python bench/peers/NAME/peer.py server      only with `server = true` in peer.toml: serves at
                                                BENCH_TARGET (`ready`) until SIGTERM

The repository's root is in PYTHONPATH, so `from bench.peers.contract import ready, serve` works
there; this folder must not be on the path, since its folders are called like the packages.
What is on stdout and no JSON object is passed over, so a library that prints does no harm.

Requests, each with its answer (`{}` unless another is named); one at a time for each process:

    {"do": "setup"}                       schema and queues. A database and a Valkey are fresh; it
                                          is asked of one control process alone, and others that
                                          come later must do without.
    {"do": "fill", "count": N}            N waiting jobs as fast as it can; comes several times.
    {"do": "accept", "count": N, "in_flight": 64}
                                          N single submits; each has ended when the job is accepted.
                                          Several control processes may do that at once.
                                          {"seconds": s}
    {"do": "bulk", "count": N, "batch": 1000}
                                          N jobs in bulk submits, one call after the other or, where
                                          that is faster, up to four at once.
                                          {"seconds": s}, or {"unsupported": true}
    {"do": "unfinished"}                  {"jobs": n}: how many have not ended, by what it records
                                          itself. Asked again and again once the counters say that
                                          all were handled, so it should be one cheap query.
    {"do": "latency", "rate": 50, "seconds": S}
                                          open loop (`open_loop`), while workers run: from the
                                          intended time to when the client knows of the end.
                                          {"microseconds": [...]}
    {"do": "end_to_end", "count": N}      N submits by its best means while workers run, until the
                                          client knows of all ends; only where peer.toml has "D".
                                          {"seconds": s}

Anything that is raised becomes `{"error": "traceback"}` and ends that contestant's measurement.

Environment: BENCH_DATABASE_URL (postgresql://user:password@host:port/name), BENCH_REDIS_URL,
BENCH_MODE (`throughput` for A, B and D, `latency` for C), BENCH_COUNTER (worker), BENCH_TARGET
(host:port, where there is a server).

peer.toml, all of it shown beside the figures:

    title = "Oban"
    package = "oban"                 # the distribution whose version is told
    figures = ["A", "B", "C"]        # which it takes part in
    servers = ["postgresql"]         # and "valkey"
    durable = true                   # whether an accepted job survives the loss of Redis
    server = false                   # whether there is a role `server`
    slow = false                     # below about 1,000 jobs/s: it is given fewer jobs
    python = ">=3.12"                # only where it does not run on every Python that we do
    settings = "500 at a time; polls every 5 ms for C"
    [keeps]
    row = "yes"
    history = "no"
    result = "no"
    flushall = "all jobs"            # what is left after FLUSHALL
    kill = "after 32 s"              # when the job of a worker that was killed runs again

The no-op job is called `noop` and its payload is `{"n": i}`.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import mmap
import os
import struct
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Answer: TypeAlias = Mapping[str, Any] | None
Action: TypeAlias = Callable[..., Answer | Awaitable[Answer]]

# A counter: how many were handled, and when the first and the last were, by CLOCK_MONOTONIC in
# nanoseconds, which is the same in all processes of a machine.
COUNTER: Final = struct.Struct("<QQQ")

THROUGHPUT: Final = "throughput"
LATENCY: Final = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the harness says."""

    database_url: str
    redis_url: str
    mode: str
    target: str

    @classmethod
    def read(cls) -> Environment:
        """Reads it from the variables of this process."""
        return cls(
            database_url=os.environ["BENCH_DATABASE_URL"],
            redis_url=os.environ["BENCH_REDIS_URL"],
            mode=os.environ["BENCH_MODE"],
            target=os.environ.get("BENCH_TARGET", ""),
        )

    @property
    def for_latency(self) -> bool:
        """Whether the settings that are best for the latency at rest are asked for."""
        return self.mode == LATENCY


# --- a control process


def serve(actions: Mapping[str, Action]) -> None:
    """Answers requests until the end of stdin; all in one event loop.

    Args:
        actions: functions or coroutine functions by the names of the requests. Each takes the other
            fields of a request as keyword arguments and returns the answer. A function may block.
    """
    asyncio.run(serving(actions))


async def serving(actions: Mapping[str, Action]) -> None:
    """The same in a loop that runs, for who opens something around it."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        try:
            answer = actions[request.pop("do")](**request)
            if inspect.isawaitable(answer):
                answer = await answer
            _say(answer or {})
        except Exception:  # noqa: BLE001 - whatever it is, the harness tells it
            _say({"error": traceback.format_exc()})


def _say(answer: Mapping[str, Any]) -> None:
    # Past what a library has put in the place of sys.stdout, and on a line of its own.
    with open(1, "wb", closefd=False) as stdout:
        stdout.write(f"\n{json.dumps(answer)}\n".encode())


# --- a worker


def ready() -> None:
    """Tells the harness that this process serves, or takes jobs."""
    _say({"ready": True})


class _Counter:
    """Counts what this process has handled, in a file of its own, also from several threads."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(COUNTER.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), COUNTER.size)
        self._lock = threading.Lock()
        self._first = 0
        self._handled = 0

    def add(self) -> None:
        now = time.monotonic_ns()
        with self._lock:
            self._first = self._first or now
            self._handled += 1
            COUNTER.pack_into(self._memory, 0, self._handled, self._first, now)


_counter: _Counter | None = None
_opening = threading.Lock()


def count() -> None:
    """What a no-op handler does: counts itself. Each process has a file of its own, BENCH_COUNTER
    and its process id, so a worker may fork.
    """
    global _counter  # noqa: PLW0603 - handlers are functions of modules
    if _counter is None:
        with _opening:
            if _counter is None:
                _counter = _Counter(Path(f"{os.environ['BENCH_COUNTER']}.{os.getpid()}"))
    _counter.add()


def _forget() -> None:
    global _counter, _opening
    _counter, _opening = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


# --- load


async def in_flight(count: int, limit: int, submit: Callable[[int], Awaitable[object]]) -> float:
    """Calls `submit(n)` for n below `count`, `limit` at a time; returns the seconds it took."""
    numbers = iter(range(count))

    async def submit_next() -> None:
        for number in numbers:
            await submit(number)

    began = time.perf_counter()
    await asyncio.gather(*(submit_next() for _ in range(min(limit, count))))
    return time.perf_counter() - began


def in_flight_threads(count: int, limit: int, submit: Callable[[int], object]) -> float:
    """The same for a client that blocks."""
    numbers = itertools.count()  # next() is atomic

    def submit_next() -> None:
        while (number := next(numbers)) < count:
            submit(number)

    with ThreadPoolExecutor(limit) as pool:
        list(pool.map(lambda _: None, range(limit)))  # the threads are there
        began = time.perf_counter()
        for done in as_completed([pool.submit(submit_next) for _ in range(limit)]):
            done.result()
        return time.perf_counter() - began


def batches(count: int, batch: int) -> Iterator[range]:
    """The numbers below `count` in ranges of `batch`."""
    return (range(start, min(start + batch, count)) for start in range(0, count, batch))


async def in_batches(
    count: int, batch: int, submit: Callable[[range], Awaitable[object]], *, at_once: int = 1
) -> float:
    """Calls `submit(numbers)` for each batch, `at_once` at a time; returns the seconds it took."""
    ranges = list(batches(count, batch))
    return await in_flight(len(ranges), at_once, lambda number: submit(ranges[number]))


async def open_loop(
    rate: float, seconds: float, submit_and_wait: Callable[[int], Awaitable[object]]
) -> list[int]:
    """Begins `submit_and_wait(n)` at fixed times, whatever became of those before.

    Args:
        rate: how many a second.
        seconds: for how long.
        submit_and_wait: returns when the client knows that job n has ended.

    Returns:
        The microseconds from each intended time until then.
    """
    # The clock of uvloop's loop stands still within a turn, and counts in milliseconds.
    clock = time.perf_counter
    start = clock() + 0.05

    async def one(number: int) -> int:
        await submit_and_wait(number)
        return round((clock() - start - number / rate) * 1e6)

    tasks = []
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - clock()))
            tasks.append(group.create_task(one(number)))
    return [task.result() for task in tasks]


def open_loop_threads(
    rate: float, seconds: float, submit_and_wait: Callable[[int], object], *, threads: int = 64
) -> list[int]:
    """The same for a client that blocks; more than `threads` at once wait for one, which counts."""
    count = round(rate * seconds)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: time.sleep(0.01), range(threads)))  # the threads are there
        start = time.monotonic() + 0.05

        def one(number: int) -> int:
            submit_and_wait(number)
            return round((time.monotonic() - start - number / rate) * 1e6)

        futures = []
        for number in range(count):
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            futures.append(pool.submit(one, number))
        return [future.result() for future in futures]
