"""`python bench/access`: measure the cost of access control, and what response times reveal.

The program starts a PostgreSQL, a Valkey and two gateways, one of them with access control, and
sends the same calls to both in turns:

- the CPU time of a gateway for a call without a query, without access control, with an API key, and
  with an invalid key;
- the CPU time of a gateway for a submit, for comparison;
- the response times of GetJob for a job of another tenant and for a job that does not exist. A
  difference would reveal to a caller which foreign jobs exist.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

# Import from the repository root, not from this folder.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import grpc.aio  # noqa: E402 - needs the path above
from sqlalchemy import text  # noqa: E402

from bench.stack import Stack  # noqa: E402
from bench.table import Table  # noqa: E402
from bench.usage import CpuMeter  # noqa: E402
from headrace.v1 import job_service_pb2_grpc  # noqa: E402
from headrace.v1.access_service_pb2 import WhoAmIRequest  # noqa: E402
from headrace.v1.access_service_pb2_grpc import AccessServiceStub  # noqa: E402
from headrace.v1.job_pb2 import JobSpec  # noqa: E402
from headrace.v1.job_service_pb2 import GetJobRequest, SubmitJobRequest  # noqa: E402
from headrace.v1.job_service_pb2_grpc import JobServiceStub  # noqa: E402
from headrace_core.domain.access import Role, Scope  # noqa: E402
from headrace_core.domain.api_key import new_api_key  # noqa: E402
from headrace_core.runtime.settings import Settings  # noqa: E402
from headrace_core.store.access.keys import create_api_key  # noqa: E402
from headrace_core.store.sql.database import Database  # noqa: E402
from headrace_core.store.sql.installation import read_installation  # noqa: E402

# Calls in flight while CPU time is measured.
_IN_FLIGHT = 16
_TENANT, _OTHER_TENANT = "bench", "bench-other"

Metadata: TypeAlias = tuple[tuple[str, str], ...]
JobServiceAsyncStub: TypeAlias = "job_service_pb2_grpc.JobServiceAsyncStub"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKind:
    """A kind of call whose CPU time is measured.

    Attributes:
        name: the name in the table.
        gateway: the process id of the gateway.
        send: sends one call.
    """

    name: str
    gateway: int
    send: Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Measurements:
    """CPU microseconds per call in each round by kind, and response times in seconds by job."""

    cpu: dict[str, list[float]] = field(default_factory=dict)
    response_times: dict[str, list[float]] = field(default_factory=dict)


async def measure(*, rounds: int, calls: int, announce: Callable[[str], None]) -> Measurements:
    """Start the platform and run all rounds.

    Args:
        rounds: the number of rounds.
        calls: the number of calls of each kind in a round.
        announce: receives a line before each round.
    """
    measured = Measurements()
    async with AsyncExitStack() as running:
        stack = await running.enter_async_context(Stack.running())
        keys = await _add_tenants(stack.settings)
        unguarded = await running.enter_async_context(stack.gateway())
        guarded = await running.enter_async_context(
            stack.gateway({"HEADRACE_ACCESS_CONTROL": "true"})
        )
        plain_channel, channel = [
            await running.enter_async_context(grpc.aio.insecure_channel(gateway.address))
            for gateway in (unguarded, guarded)
        ]
        own, other = (_bearer(key) for key in keys)
        invalid = _bearer(keys[0][:-1] + ("a" if keys[0][-1] != "a" else "b"))
        plain, access = AccessServiceStub(plain_channel), AccessServiceStub(channel)
        jobs = JobServiceStub(channel)
        spec = JobSpec(type="bench")

        async def rejected() -> None:
            try:
                await access.WhoAmI(WhoAmIRequest(), metadata=invalid)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise

        kinds = (
            CallKind(
                name="WhoAmI without access control",
                gateway=unguarded.pid,
                send=lambda: plain.WhoAmI(WhoAmIRequest()),
            ),
            CallKind(
                name="WhoAmI with an API key",
                gateway=guarded.pid,
                send=lambda: access.WhoAmI(WhoAmIRequest(), metadata=own),
            ),
            CallKind(name="WhoAmI with an invalid key", gateway=guarded.pid, send=rejected),
            CallKind(
                name="SubmitJob with an API key",
                gateway=guarded.pid,
                send=lambda: jobs.SubmitJob(SubmitJobRequest(job=spec), metadata=own),
            ),
        )
        foreign = (await jobs.SubmitJob(SubmitJobRequest(job=spec), metadata=other)).job.id
        for number in range(rounds + 1):
            announce(f"round {number} of {rounds}" if number else "warm-up")
            for kind in kinds:
                microseconds = await _cpu_per_call(kind, calls)
                if number:
                    measured.cpu.setdefault(kind.name, []).append(microseconds)
            times = await _compare_response_times(jobs, own, foreign, calls)
            if number:
                for name, seconds in times.items():
                    measured.response_times.setdefault(name, []).extend(seconds)
    return measured


async def _cpu_per_call(kind: CallKind, calls: int) -> float:
    """Return the CPU microseconds of the gateway per call."""
    meter = CpuMeter({"gateway": kind.gateway})
    before = meter.sample()
    left = calls

    async def send() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await kind.send()

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(send())
    return before.microseconds_each(meter.sample(), calls)["gateway"]


async def _compare_response_times(
    jobs: JobServiceAsyncStub, own: Metadata, foreign: str, calls: int
) -> dict[str, list[float]]:
    """Ask for a foreign and a missing job in turns; return the response times, in seconds."""
    times: dict[str, list[float]] = {"a job of another tenant": [], "a missing job": []}
    for number in range(calls):
        # The order alternates, so neither kind always follows the other one.
        for name in list(times)[:: 1 if number % 2 else -1]:
            job_id = foreign if name == "a job of another tenant" else str(uuid4())
            started = time.perf_counter()
            try:
                await jobs.GetJob(GetJobRequest(job_id=job_id), metadata=own)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            times[name].append(time.perf_counter() - started)
    return times


async def _add_tenants(settings: Settings) -> list[str]:
    """Add two tenants with an operator each; return the API keys."""
    database = Database(settings, application="bench")
    keys = []
    async with database.transaction() as conn:
        secret = (await read_installation(conn)).secret
        for tenant in (_TENANT, _OTHER_TENANT):
            await conn.execute(text("INSERT INTO tenants (name) VALUES (:name)"), {"name": tenant})
            key = new_api_key(secret)
            await create_api_key(
                conn,
                key_id=key.id,
                secret_hash=key.secret_hash,
                tenant=tenant,
                principal="bench",
                role=Role.OPERATOR,
                scope=Scope(),
                created_by="bench",
                expire_time=None,
            )
            keys.append(key.text)
    await database.close()
    return keys


def _bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


def tables(measured: Measurements) -> list[Table]:
    """Return the results."""
    cpu = Table("CPU time of the gateway per call, in µs", ["call", "median", "lowest", "highest"])
    for name, values in measured.cpu.items():
        cpu.rows.append(
            [
                name,
                *(
                    f"{value:,.0f}"
                    for value in (statistics.median(values), min(values), max(values))
                ),
            ]
        )
    times = Table(
        "Response times of GetJob for a job that the caller cannot see, in ms",
        ["GetJob for", "p50", "p90", "calls"],
    )
    for name, seconds in measured.response_times.items():
        deciles = statistics.quantiles(seconds, n=10)
        times.rows.append(
            [name, f"{deciles[4] * 1000:.3f}", f"{deciles[8] * 1000:.3f}", f"{len(seconds):,}"]
        )
    return [cpu, times]


def conclusions(measured: Measurements) -> list[str]:
    """Return the figures that have a limit."""
    off, on, rejected, submit = (statistics.median(values) for values in measured.cpu.values())
    foreign, missing = (statistics.median(times) for times in measured.response_times.values())
    return [
        f"authentication with a cached key: {on - off:+.0f} µs per call (limit: 30)",
        f"a rejected call costs {rejected / submit:.2f} of a submit with a key",
        f"response time of a foreign job: {foreign / missing - 1:+.1%} (limit: ±5 %)",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python bench/access", description="Measure the cost of access control."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds per measurement (5)")
    parser.add_argument(
        "--calls", type=int, default=3000, help="calls of each kind per round (3000)"
    )
    options = parser.parse_args(arguments)

    def announce(line: str) -> None:
        sys.stderr.write(f"bench: {line}\n")

    measured = asyncio.run(measure(rounds=options.rounds, calls=options.calls, announce=announce))
    for table in tables(measured):
        sys.stdout.write(f"{table.text()}\n\n")
    sys.stdout.write("\n".join(conclusions(measured)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
