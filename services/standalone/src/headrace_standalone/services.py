"""The programs of the gateway, the scheduler and the workers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from headrace_health.__main__ import probe
from headrace_standalone.program import Program

_PROBE_TIMEOUT = 2.0
# Python's imports are slow on a busy machine.
_START_TIMEOUT = 60.0


def gateway(
    *, address: str, environment: Mapping[str, str], grace: float, metrics_address: str = ""
) -> Program:
    """Return the gateway on `address`; `grace` is the maximum duration of its stop, in seconds."""
    return _service(
        "gateway",
        "gateway",
        address=address,
        metrics_address=metrics_address,
        environment=environment,
        grace=grace,
    )


def scheduler(
    *, address: str, environment: Mapping[str, str], grace: float, metrics_address: str = ""
) -> Program:
    """Return the scheduler, with its health service on `address`."""
    return _service(
        "scheduler",
        "scheduler",
        address=address,
        metrics_address=metrics_address,
        environment=environment,
        grace=grace,
    )


def worker(
    *,
    number: int,
    address: str,
    environment: Mapping[str, str],
    grace: float,
    metrics_address: str = "",
) -> Program:
    """Return worker `number`, with its health service on `address`."""
    return _service(
        "worker",
        f"worker-{number}",
        address=address,
        metrics_address=metrics_address,
        environment=environment,
        grace=grace,
    )


def _service(
    service: str,
    name: str,
    *,
    address: str,
    metrics_address: str,
    environment: Mapping[str, str],
    grace: float,
) -> Program:
    addresses = {f"HEADRACE_{service.upper()}_ADDRESS": address}
    if metrics_address:
        addresses[f"HEADRACE_{service.upper()}_METRICS_ADDRESS"] = metrics_address

    async def serves() -> bool:
        status = await asyncio.to_thread(probe, address, service="", timeout=_PROBE_TIMEOUT)
        return status == "SERVING"

    return Program(
        name=name,
        command=(sys.executable, "-m", f"headrace_{service}"),
        environment={**environment, **addresses},
        probe=serves,
        start_timeout=_START_TIMEOUT,
        postpones=True,
        stop_grace=grace + 5,
    )
