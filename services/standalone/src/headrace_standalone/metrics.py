"""The addresses at which the services of `headrace up` serve their metrics."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.embedded.port import free_port

_VARIABLE = "HEADRACE_{}_METRICS_ADDRESS"


def metrics_addresses(
    *, workers: int, web: bool = True, port: int | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return `host:port` for each process that serves metrics, by its name.

    With `port`, every process serves metrics on 127.0.0.1: the gateway on this port, the scheduler,
    the workers and the web service on the next ports. Otherwise HEADRACE_GATEWAY_METRICS_ADDRESS
    and its counterparts apply: the first worker uses the configured port, the other workers the
    next ports. Port 0 selects a free port for each process.

    Args:
        workers: the number of workers.
        web: whether there is a web service.
        port: the first port; None to use `environment`.
        environment: the variables of the process.

    Raises:
        EmbeddedServerError: a port is above 65535, or two processes would share an address.
    """
    worker_names = [f"worker-{number}" for number in range(1, workers + 1)]
    web_names = ["web"] if web else []
    if port is not None:
        names = ["gateway", "scheduler", *worker_names, *web_names]
        addresses = _consecutive(names, f"127.0.0.1:{port}")
    else:
        addresses = {}
        for service, names in (
            ("gateway", ["gateway"]),
            ("scheduler", ["scheduler"]),
            ("worker", worker_names),
            ("web", web_names),
        ):
            if names and (address := environment.get(_VARIABLE.format(service.upper()))):
                addresses |= _consecutive(names, address)
    owners: dict[str, str] = {}
    for name, address in addresses.items():
        if other := owners.get(address):
            raise EmbeddedServerError(
                f"{other} and {name} would both serve their metrics on {address}. Choose other "
                "ports with HEADRACE_GATEWAY_METRICS_ADDRESS, HEADRACE_SCHEDULER_METRICS_ADDRESS, "
                "HEADRACE_WORKER_METRICS_ADDRESS and HEADRACE_WEB_METRICS_ADDRESS, or use "
                "--metrics-port."
            )
        owners[address] = name
    return addresses


def _consecutive(names: list[str], first: str) -> dict[str, str]:
    host, _, port = first.rpartition(":")
    if not port.isdigit() or int(port) + len(names) - 1 > 65_535:
        raise EmbeddedServerError(
            f"the metrics address {first} needs a port from 0 to {65_536 - len(names)}, "
            f"since {len(names)} processes use consecutive ports"
        )
    return {
        name: f"{host}:{int(port) + place if int(port) else free_port()}"
        for place, name in enumerate(names)
    }
