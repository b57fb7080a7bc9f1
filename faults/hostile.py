"""Hostile clients in their own processes, and the health of the gateways that they attack."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faults.cluster import Service
from faults.trial import Trial
from headrace_standalone.program import leashed_command

# The metric that counts the connections that a gateway closed because they flooded it.
FLOODS_CLOSED = "headrace_flooding_connections_closed_total"
_PROBE_EVERY_S = 0.02
_ROOT = Path(__file__).resolve().parents[1]


class HealthChecks:
    """Response times of health checks in seconds, and the peak memory of each gateway in MiB."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.peaks: dict[str, float] = {}
        self.not_serving = 0


async def run_hostile_client(module: str, *arguments: str, timeout: float) -> bytes:
    """Run a module in another process, so it does not disturb the measurements; return its output.

    Args:
        module: the module.
        arguments: its arguments.
        timeout: the maximum duration, in seconds.
    """
    # Avoid asyncio here: uvloop forks, and a fork during gRPC calls may crash.
    process = subprocess.Popen(
        leashed_command((sys.executable, "-m", module, *arguments), death_signal=signal.SIGKILL),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        out, _ = await asyncio.to_thread(process.communicate, timeout=timeout)
    finally:
        process.kill()
        process.wait()
    return out


@asynccontextmanager
async def probing(trial: Trial) -> AsyncIterator[HealthChecks]:
    """Check the health of each gateway continuously for the duration of the block."""
    health = HealthChecks()
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


async def _probe(gateway: Service, health: HealthChecks) -> None:
    async with aio.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            started = time.monotonic()
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            health.not_serving += response.status != health_pb2.HealthCheckResponse.SERVING
            health.waits.append(time.monotonic() - started)
            peak = health.peaks.get(gateway.name, 0.0)
            health.peaks[gateway.name] = max(peak, gateway.memory_mib())
            await asyncio.sleep(_PROBE_EVERY_S)
