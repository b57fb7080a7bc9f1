"""The programs of the services."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from cryptography import x509

from headrace_health.__main__ import ProbeTls, probe
from headrace_health.http_probe import probe_http
from headrace_standalone.program import Program

_PROBE_TIMEOUT = 2.0
# The spellings of true in pydantic.
_TRUE = {"1", "on", "t", "true", "y", "yes"}
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


def web(
    *, address: str, environment: Mapping[str, str], grace: float, metrics_address: str = ""
) -> Program:
    """Return the web service on `address`."""
    scheme = "https" if environment.get("HEADRACE_TLS_CERT") else "http"

    async def serves() -> bool:
        tls = _probe_tls("web", environment)
        return await asyncio.to_thread(
            probe_http,
            f"{scheme}://{address}",
            timeout=_PROBE_TIMEOUT,
            ca=None if tls is None else tls.ca,
            name=tls.name if tls else "",
        )

    return _program(
        "web",
        "web",
        address=address,
        metrics_address=metrics_address,
        environment=environment,
        grace=grace,
        serves=serves,
    )


def _probe_tls(service: str, environment: Mapping[str, str]) -> ProbeTls | None:
    """Return the TLS options for a probe of a service; None for no TLS."""
    cert = environment.get("HEADRACE_TLS_CERT")
    plain = environment.get("HEADRACE_PLAIN_HEALTH", "").lower() in _TRUE
    if not cert or (plain and service in ("scheduler", "worker")):
        return None
    file = Path(cert)
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host = next(iter(names.get_values_for_type(x509.DNSName)), "")
    key = environment.get("HEADRACE_TLS_KEY")
    # The certificate itself is trusted, whatever signed it, under its own name.
    return ProbeTls(ca=file, cert=file, key=Path(key) if key else None, name=host)


def _service(
    service: str,
    name: str,
    *,
    address: str,
    metrics_address: str,
    environment: Mapping[str, str],
    grace: float,
) -> Program:
    async def serves() -> bool:
        status = await asyncio.to_thread(
            probe,
            address,
            service="",
            timeout=_PROBE_TIMEOUT,
            tls=_probe_tls(service, environment),
        )
        # A gateway can be configured not to serve health.
        return status in {"SERVING", "UNIMPLEMENTED"}

    return _program(
        service,
        name,
        address=address,
        metrics_address=metrics_address,
        environment=environment,
        grace=grace,
        serves=serves,
    )


def _program(
    service: str,
    name: str,
    *,
    address: str,
    metrics_address: str,
    environment: Mapping[str, str],
    grace: float,
    serves: Callable[[], Awaitable[bool]],
) -> Program:
    addresses = {f"HEADRACE_{service.upper()}_ADDRESS": address}
    if metrics_address:
        addresses[f"HEADRACE_{service.upper()}_METRICS_ADDRESS"] = metrics_address
    return Program(
        name=name,
        command=(sys.executable, "-m", f"headrace_{service}"),
        environment={**environment, **addresses},
        probe=serves,
        start_timeout=_START_TIMEOUT,
        postpones=True,
        stop_grace=grace + 5,
    )
