"""F21: 20,000 streams are opened and cancelled; 2,000 streams lose their clients."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from grpc import aio

from faults.cluster import Plan
from faults.evidence import Usage
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client
from headrace.v1 import job_service_pb2
from headrace.v1.job_service_pb2_grpc import JobServiceStub

CANCELLED_STREAMS = 20_000
VANISHED_STREAMS = 2_000
# The warm-up opens as many streams at once as the fault does, so any later growth is a leak.
_WARM_UP_STREAMS = 2_000
_CONCURRENT_STREAMS = 200
_CONNECTIONS = 4
# Longest time until a gateway detects a lost client, in seconds: it pings every 30 s, waits 10 s.
MAX_CLOSE_S = 60.0
# Time until freed memory is returned to the system, in seconds.
_MEMORY_RETURN_S = 10.0
_ROOT = Path(__file__).resolve().parents[2]


async def run(trial: Trial) -> None:
    targets = [gateway.address for gateway in trial.cluster.gateways]
    async with Client(targets) as client:
        job = await client.submit("unhandled", queue="unserved")
        await _churn(targets, job.id, _WARM_UP_STREAMS)
        await _open_and_kill(targets, VANISHED_STREAMS // 2)
        await _wait_until_all_closed(trial, "warm-up streams")
        await asyncio.sleep(_MEMORY_RETURN_S)
        before = await _resource_usage(trial)
        cancelled = CANCELLED_STREAMS // 10 if trial.short else CANCELLED_STREAMS
        async with trial.fault(f"{cancelled} streams are opened and cancelled"):
            await _churn(targets, job.id, cancelled)
        await _wait_until_all_closed(trial, "cancelled streams")
        async with trial.fault(f"{VANISHED_STREAMS} streams of clients that are killed"):
            await _open_and_kill(targets, VANISHED_STREAMS // 2)
            await _wait_until_all_closed(trial, "streams of killed clients")
            client_links = [gateway.client_link for gateway in trial.cluster.gateways]
            link_targets = [link.address for link in client_links if link]
            async with _open_in_child(VANISHED_STREAMS // 2, link_targets) as process:
                # The gateways detect neither the end of the client nor closed connections.
                for link in client_links:
                    if link:
                        link.hold()
                process.kill()
                await _wait_until_all_closed(trial, "streams on a dead link")
            for link in client_links:
                if link:
                    link.release()
        await asyncio.sleep(_MEMORY_RETURN_S)
        after = await _resource_usage(trial)
        await client.cancel(job.id)
    for what, (earlier, unit, slack) in before.items():
        later = after[what][0]
        trial.usages.append(Usage(what=what, before=earlier, after=later, unit=unit, slack=slack))
        change = (later - earlier) / earlier * 100
        trial.figure(what, change, "%")


async def _churn(targets: Sequence[str], job_id: str, count: int) -> None:
    """Open streams and cancel them, some at once and some after their first response."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        aio.insecure_channel(target, options=options)
        for target in targets
        for _ in range(_CONNECTIONS)
    ]
    stubs = [JobServiceStub(channel) for channel in channels]
    numbers = iter(range(count))

    async def open_in_turn() -> None:
        for number in numbers:
            call = _open(stubs[number % len(stubs)], number, job_id)
            if number % 5:
                await call.read()
            call.cancel()

    try:
        await asyncio.gather(*(open_in_turn() for _ in range(_CONCURRENT_STREAMS)))
    finally:
        await asyncio.gather(*(channel.close(None) for channel in channels))


def _open(stub: JobServiceStub, number: int, job_id: str) -> Any:
    if number % 2:
        return stub.WatchJob(job_service_pb2.WatchJobRequest(job_id=job_id))
    job_filter = job_service_pb2.JobFilter(labels={"group": str(number)})
    return stub.WatchJobs(job_service_pb2.WatchJobsRequest(filter=job_filter))


async def _open_and_kill(targets: Sequence[str], count: int) -> None:
    async with _open_in_child(count, targets):
        pass


@asynccontextmanager
async def _open_in_child(
    count: int, targets: Sequence[str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a client with open streams for the duration of the block, then kill it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faults.idle_streams", str(count), *targets),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line == b"open\n", "the client did not open its streams"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _wait_until_all_closed(trial: Trial, what: str) -> None:
    """Wait until no gateway has an open stream."""

    async def none_open() -> bool:
        counts = [await gateway.metric("headrace_streams") for gateway in trial.cluster.gateways]
        return not any(counts)

    trial.figure(
        f"time until {what} are closed",
        await until(none_open, within=MAX_CLOSE_S * 2),
        "s",
        at_most=MAX_CLOSE_S,
    )


async def _resource_usage(trial: Trial) -> dict[str, tuple[float, str, float]]:
    """Return amount, unit and tolerated noise of each resource, by name."""
    usage: dict[str, tuple[float, str, float]] = {}
    for gateway in trial.cluster.gateways:
        usage[f"{gateway.name}: memory"] = gateway.memory_mib(), "MiB", 0.0
        # Noise: an HTTP request for metrics, or a connection while it is replaced.
        usage[f"{gateway.name}: files"] = gateway.open_files(), "", 2.0
    sessions = await trial.records.sessions("headrace-gateway")
    usage["database sessions"] = sessions, "", 2.0
    return usage


SCENARIO = Scenario(
    id="F21",
    title="20,000 streams are opened and cancelled; 2,000 streams lose their clients",
    shows=("I8",),
    run=run,
    plan=Plan(schedulers=0, workers=0, links=frozenset({"client"})),
    usual=85,
    usual_short=85,
)
