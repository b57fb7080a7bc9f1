"""The contract that each contestant of the comparison fulfills, and code that they share.

A contestant is a folder beside this file with `peer.py`, `peer.toml`, `requirements.in` and the
pinned `requirements.txt`. `peer.py` runs in a separate environment, so this file uses only the
standard library, and the harness (`bench/compare`) communicates with it only by lines of JSON:

    python bench/peers/NAME/peer.py control     requests on stdin, responses on stdout (`serve`)
    python bench/peers/NAME/peer.py worker      executes jobs (`report_ready`, `count_job`) until
                                                SIGTERM
    python bench/peers/NAME/peer.py server      only with `server = true` in peer.toml: serves at
                                                BENCH_TARGET (`report_ready`) until SIGTERM

PYTHONPATH contains the repository root, so `from bench.peers.contract import report_ready, serve`
works in `peer.py`. This folder must not be on the path, because its subfolders have the names of
installed packages. The harness ignores lines on stdout that are not JSON objects, so a library may
print.

Requests and their responses (`{}` if none is given), one request at a time per process:

    {"do": "setup"}                       Create schema and queues in a fresh database and a fresh
                                          Valkey. Only the first control process receives it.
    {"do": "fill", "count": N}            Create N waiting jobs at full speed. May be repeated.
    {"do": "accept", "count": N, "in_flight": 64}
                                          Make N single submits; a submit ends when the job is
                                          accepted. Several control processes may run it at once.
                                          {"seconds": s}
    {"do": "bulk", "count": N, "batch": 1000}
                                          Submit N jobs in bulk: one call after the other, or up to
                                          four at once if that is faster.
                                          {"seconds": s}, or {"unsupported": true}
    {"do": "unfinished"}                  Return the number of jobs that have not ended, from the
                                          contestant's own records. The harness polls it once the
                                          counters have reached the number of jobs, so use one
                                          cheap query.
                                          {"jobs": n}
    {"do": "latency", "rate": 50, "seconds": S}
                                          Run the open loop (`open_loop`) while workers run. A
                                          latency is the time from the intended submit until the
                                          client knows the end of the job.
                                          {"microseconds": [...]}
    {"do": "end_to_end", "count": N}      Submit N jobs in the fastest way while workers run, and
                                          wait until the client knows all ends. Only for
                                          contestants with "D" in peer.toml.
                                          {"seconds": s}

An exception becomes `{"error": "traceback"}` and ends the measurement of this contestant.

Environment: BENCH_DATABASE_URL (postgresql://user:password@host:port/name), BENCH_REDIS_URL,
BENCH_MODE (`throughput` for A, B and D, `latency` for C), BENCH_COUNTER (worker), BENCH_TARGET
(host:port, if the contestant has a server).

peer.toml, which the report prints beside the figures:

    title = "Oban"
    package = "oban"                 # the distribution whose version is printed
    figures = ["A", "B", "C"]        # the figures in which the contestant takes part
    servers = ["postgresql"]         # may also contain "valkey"
    durable = true                   # true if an accepted job survives the loss of Redis
    server = false                   # true if `peer.py` has the role `server`
    slow = false                     # true below about 1,000 jobs/s; the plan then uses fewer jobs
    python = ">=3.12"                # only if the package needs a newer Python than Headrace
    settings = "500 at a time; polls every 5 ms for C"
    [keeps]
    row = "yes"
    history = "no"
    result = "no"
    flushall = "all jobs"            # the data that remains after FLUSHALL
    kill = "after 32 s"              # when a killed worker's job runs again

The no-op job has the type `noop` and the payload `{"n": i}`.
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

Response: TypeAlias = Mapping[str, Any] | None
Action: TypeAlias = Callable[..., Response | Awaitable[Response]]

# A counter: the number of handled jobs, and the times of the first and the last one, in nanoseconds
# of CLOCK_MONOTONIC, which all processes of a machine share.
COUNTER: Final = struct.Struct("<QQQ")

THROUGHPUT: Final = "throughput"
LATENCY: Final = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The settings that the harness passes to a contestant."""

    database_url: str
    redis_url: str
    mode: str
    target: str

    @classmethod
    def read(cls) -> Environment:
        """Read the settings from the environment variables of this process."""
        return cls(
            database_url=os.environ["BENCH_DATABASE_URL"],
            redis_url=os.environ["BENCH_REDIS_URL"],
            mode=os.environ["BENCH_MODE"],
            target=os.environ.get("BENCH_TARGET", ""),
        )

    @property
    def for_latency(self) -> bool:
        """True if the settings should minimize latency on an idle system."""
        return self.mode == LATENCY


# --- a control process


def serve(actions: Mapping[str, Action]) -> None:
    """Serve requests in one event loop until the end of stdin.

    Args:
        actions: functions or coroutine functions by the names of the requests. Each receives the
            other fields of a request as keyword arguments and returns the response. A function may
            block.
    """
    asyncio.run(serving(actions))


async def serving(actions: Mapping[str, Action]) -> None:
    """Serve requests like `serve`, in a running event loop."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        try:
            response = actions[request.pop("do")](**request)
            if inspect.isawaitable(response):
                response = await response
            _print(response or {})
        except Exception:  # noqa: BLE001 - the harness reports any exception
            _print({"error": traceback.format_exc()})


def _print(response: Mapping[str, Any]) -> None:
    # A library may have replaced sys.stdout, or printed an incomplete line.
    with open(1, "wb", closefd=False) as stdout:
        stdout.write(f"\n{json.dumps(response)}\n".encode())


# --- a worker


def report_ready() -> None:
    """Report to the harness that this process serves or executes jobs."""
    _print({"ready": True})


class _Counter:
    """The counter of one process, in a separate file; safe to use from several threads."""

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
_counter_lock = threading.Lock()


def count_job() -> None:
    """Count one handled job. Each contestant's no-op handler calls this function.

    Each process has a separate file, BENCH_COUNTER plus its process id, so a worker may fork.
    """
    global _counter  # noqa: PLW0603 - handlers are functions of modules
    if _counter is None:
        with _counter_lock:
            if _counter is None:
                _counter = _Counter(Path(f"{os.environ['BENCH_COUNTER']}.{os.getpid()}"))
    _counter.add()


def _reset() -> None:
    global _counter, _counter_lock
    _counter, _counter_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_reset)


# --- load


async def submit_concurrently(
    count: int, limit: int, submit: Callable[[int], Awaitable[object]]
) -> float:
    """Call `submit(n)` for n below `count`, `limit` at a time; return the elapsed seconds."""
    numbers = iter(range(count))

    async def submit_next() -> None:
        for number in numbers:
            await submit(number)

    start = time.perf_counter()
    await asyncio.gather(*(submit_next() for _ in range(min(limit, count))))
    return time.perf_counter() - start


def submit_concurrently_in_threads(
    count: int, limit: int, submit: Callable[[int], object]
) -> float:
    """Call `submit(n)` like `submit_concurrently`, with a blocking client."""
    numbers = itertools.count()  # next() is atomic

    def submit_next() -> None:
        while (number := next(numbers)) < count:
            submit(number)

    with ThreadPoolExecutor(limit) as pool:
        list(pool.map(lambda _: None, range(limit)))  # start the threads first
        start = time.perf_counter()
        for done in as_completed([pool.submit(submit_next) for _ in range(limit)]):
            done.result()
        return time.perf_counter() - start


def batches(count: int, batch: int) -> Iterator[range]:
    """Return the numbers below `count` in ranges of `batch`."""
    return (range(start, min(start + batch, count)) for start in range(0, count, batch))


async def submit_in_batches(
    count: int, batch: int, submit: Callable[[range], Awaitable[object]], *, at_once: int = 1
) -> float:
    """Call `submit(numbers)` per batch, `at_once` at a time; return the elapsed seconds."""
    ranges = list(batches(count, batch))
    return await submit_concurrently(len(ranges), at_once, lambda number: submit(ranges[number]))


async def open_loop(
    rate: float, seconds: float, submit_and_wait: Callable[[int], Awaitable[object]]
) -> list[int]:
    """Start `submit_and_wait(n)` at fixed times, independent of earlier submits.

    Args:
        rate: submits per second.
        seconds: duration of the load.
        submit_and_wait: returns when the client knows that job n has ended.

    Returns:
        The microseconds from each intended time until the client knew the end.
    """
    # The uvloop clock has a resolution of 1 ms, and advances only between loop iterations.
    clock = time.perf_counter
    start = clock() + 0.05

    async def measure(number: int) -> int:
        await submit_and_wait(number)
        return round((clock() - start - number / rate) * 1e6)

    tasks = []
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - clock()))
            tasks.append(group.create_task(measure(number)))
    return [task.result() for task in tasks]


def open_loop_in_threads(
    rate: float, seconds: float, submit_and_wait: Callable[[int], object], *, threads: int = 64
) -> list[int]:
    """Start submits like `open_loop`, with a blocking client.

    A submit may have to wait for one of the `threads`; its latency includes this wait.
    """
    count = round(rate * seconds)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: time.sleep(0.01), range(threads)))  # start the threads first
        start = time.monotonic() + 0.05

        def measure(number: int) -> int:
            submit_and_wait(number)
            return round((time.monotonic() - start - number / rate) * 1e6)

        futures = []
        for number in range(count):
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            futures.append(pool.submit(measure, number))
        return [future.result() for future in futures]
