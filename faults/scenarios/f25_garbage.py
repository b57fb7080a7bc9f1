"""F25: clients send garbage: too large, too deep, invalid protobuf, invalid UTF-8."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faults.cluster import Service
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial
from headrace import CallError, Client
from headrace_core.domain.lifecycle import TERMINAL
from headrace_standalone.program import leashed_command

LOAD_PER_S = 20.0
HEALTH_S = 0.2
# Memory growth of a gateway while it decodes the largest messages that its limits allow, and
# growth that may remain because the allocator keeps freed memory.
MAX_PEAK_MIB = 256.0
MAX_LASTING_MIB = 128.0
_PROBE_EVERY_S = 0.02
# Duration of the measurement without garbage, in seconds.
_BASELINE_S = 5.0

# The codes allowed for each kind of garbage. Random messages may be valid.
_RANDOM_CODES = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND"),
        *("ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ABORTED"),
    }
)
_ALLOWED: Mapping[str, frozenset[str]] = {
    # gRPC itself rejects it.
    "100 MB": frozenset({"RESOURCE_EXHAUSTED"}),
    # Reflection is not served.
    "5 MB": frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED"}),
    "deep": frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED"}),
    "deep JSON": frozenset({"INVALID_ARGUMENT"}),
    "JSON at the depth limit": frozenset({"OK"}),
    "deep Struct": frozenset({"INVALID_ARGUMENT"}),
    "invalid UTF-8": frozenset({"INVALID_ARGUMENT"}),
    "NaN": frozenset({"INVALID_ARGUMENT"}),
    "huge repeated": frozenset({"OK", "INVALID_ARGUMENT"}),
    "metadata": _RANDOM_CODES,
    "unknown method": frozenset({"UNIMPLEMENTED"}),
    "random bytes": _RANDOM_CODES,
    "random message": _RANDOM_CODES,
    "mutated": _RANDOM_CODES,
}
_ROOT = Path(__file__).resolve().parents[2]


class _HealthChecks:
    """Response times of health checks in seconds, and the peak memory of each gateway in MiB."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.most: dict[str, float] = {}
        self.not_serving = 0


async def run(trial: Trial) -> None:
    gateways = trial.cluster.gateways
    await trial.load(rate=LOAD_PER_S)
    pids = [service.pid for service in trial.cluster.services]
    before = {gateway.name: gateway.memory_mib() for gateway in gateways}
    async with _probing(trial) as usual:
        await asyncio.sleep(_BASELINE_S)
    trial.figure("health check, p99 before", percentile(usual.waits, 0.99), "s")
    async with _probing(trial) as health, trial.fault("garbage"):
        responses = await _send_garbage(trial, seconds=20 if trial.short else 90)
    trial.expect_codes(only=frozenset())
    _check_responses(trial, responses)
    trial.figure("health check, p99 during", percentile(health.waits, 0.99), "s", at_most=HEALTH_S)
    trial.figure("health checks that were not SERVING", health.not_serving, at_most=0)
    await _cancel_accepted(trial)
    growth = max(health.most[name] - before[name] for name in before)
    trial.figure("highest memory growth of a gateway", growth, "MiB", at_most=MAX_PEAK_MIB)
    rest = max(gateway.memory_mib() - before[gateway.name] for gateway in gateways)
    trial.figure("remaining memory growth of a gateway", rest, "MiB", at_most=MAX_LASTING_MIB)
    same = sum(
        service.pid == pid for service, pid in zip(trial.cluster.services, pids, strict=True)
    )
    running = sum(service.running for service in trial.cluster.services)
    trial.figure("processes without a restart", min(same, running), at_least=len(pids))


def _check_responses(trial: Trial, responses: dict[str, Any]) -> None:
    """Check that every kind of garbage was sent and received only allowed codes."""
    total, others = 0, Counter[str]()
    for kind, codes in sorted(responses["counts"].items()):
        total += sum(codes.values())
        trial.log(f"{kind}: {', '.join(f'{code} {count}' for code, count in codes.items())}")
        for code in codes.keys() - _ALLOWED[kind]:
            others[f"{kind} {code}"] += codes[code]
    for name in others:
        trial.log(f"{name}: {responses['examples'][name]}")
    trial.figure("messages of garbage", total, at_least=1000)
    trial.figure("kinds of garbage", len(responses["counts"]), at_least=len(_ALLOWED))
    trial.figure(
        f"responses with an unexpected code{': ' if others else ''}{', '.join(sorted(others))}",
        others.total(),
        at_most=0,
    )


async def _send_garbage(trial: Trial, *, seconds: float) -> dict[str, Any]:
    """Send garbage from another process, so encoding it does not disturb the measurements."""
    # Without asyncio, because uvloop forks, and a fork during gRPC calls may crash.
    process = subprocess.Popen(
        leashed_command(
            (
                *(sys.executable, "-m", "faults.garbage", str(trial.seed), str(seconds)),
                *(gateway.address for gateway in trial.cluster.gateways),
            ),
            death_signal=signal.SIGKILL,
        ),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        out, _ = await asyncio.to_thread(process.communicate, timeout=seconds + 60)
    finally:
        process.kill()
        process.wait()
    responses: dict[str, Any] = json.loads(out)
    return responses


@asynccontextmanager
async def _probing(trial: Trial) -> AsyncIterator[_HealthChecks]:
    health = _HealthChecks()
    probes = [
        asyncio.create_task(_probe(gateway, health), name=f"probe of {gateway.name}")
        for gateway in trial.cluster.gateways
    ]
    try:
        yield health
    finally:
        for probe in probes:
            probe.cancel()
        ended = await asyncio.gather(*probes, return_exceptions=True)
    failed = [end for end in ended if not isinstance(end, asyncio.CancelledError)]
    assert not failed, f"a health probe failed: {failed[0]!r}"


async def _probe(gateway: Service, health: _HealthChecks) -> None:
    async with aio.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            began = time.monotonic()
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            health.not_serving += response.status != health_pb2.HealthCheckResponse.SERVING
            health.waits.append(time.monotonic() - began)
            most = health.most.get(gateway.name, 0.0)
            health.most[gateway.name] = max(most, gateway.memory_mib())
            await asyncio.sleep(_PROBE_EVERY_S)


async def _cancel_accepted(trial: Trial) -> None:
    """Cancel the jobs that garbage submitted and that no worker can run."""
    async with Client([gateway.address for gateway in trial.cluster.gateways]) as client:
        accepted = [
            job_id
            for job_id, job in (await trial.records.jobs()).items()
            if "load" not in job.labels and job.state not in TERMINAL
        ]
        for job_id in accepted:
            # The job may have ended by now.
            with suppress(CallError):
                await client.cancel(job_id)
    trial.figure("jobs from garbage that were cancelled", len(accepted))


SCENARIO = Scenario(
    id="F25",
    title="messages of 5 and 100 MB, random and mutated protobuf, deep and unterminated documents",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=115,
    usual_short=45,
)
