"""The command `headrace up`. Every run of `headrace` imports this module, so it imports little."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from headrace_standalone.embedded.folder import DataFolder


def up(
    *,
    workers: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=16))] = 1,
    data: Annotated[Path | None, Parameter(env_var="HEADRACE_DATA")] = None,
    ephemeral: bool = False,
    gateway_port: Annotated[
        int | None, Parameter(validator=validators.Number(gte=0, lte=65535))
    ] = None,
    metrics_port: Annotated[
        int | None, Parameter(validator=validators.Number(gte=0, lte=65535))
    ] = None,
    web: bool = True,
    web_port: Annotated[
        int | None, Parameter(validator=validators.Number(gte=0, lte=65535))
    ] = None,
    open_browser: Annotated[bool, Parameter(name="--open", negative="")] = False,
    handlers: tuple[str, ...] = (),
    log_format: Literal["console", "json"] = "console",
    show_logs: bool = False,
    secure: bool = False,
) -> int:
    """Start the whole platform on this machine and keep it running until Ctrl-C.

    The command starts its own PostgreSQL and Valkey servers,
    unless HEADRACE_DATABASE_URL and HEADRACE_REDIS_URL are set.
    The services read all other settings from the environment.

    Args:
        workers: Number of workers.
        data: Folder for data, secrets and logs; default .headrace.
        ephemeral: Use a temporary folder for the data, and delete it at the end.
        gateway_port: Port of the API on 127.0.0.1; default 50051, 0 for any free port.
        metrics_port: First port for metrics on 127.0.0.1; 0 for any free ports.
            Gateway, scheduler, workers and web use consecutive ports, in this order.
        web: Serve HTTP: JSON, Connect and the dashboard.
        web_port: Port for HTTP on 127.0.0.1; 0 for any free port.
            The default is 8080, or a free port if 8080 is in use.
        open_browser: Open the web address in the browser.
        handlers: Module with your own handlers; repeatable.
        log_format: Log format of the services.
        show_logs: Also print the logs to the terminal.
        secure: Serve the API with TLS and access control.
            The first start prints an API key for administrators, once.

    Returns:
        The exit code: 0 after a clean stop, 1 if the platform could not start.
    """
    from headrace_standalone.embedded import EmbeddedServerError  # noqa: PLC0415
    from headrace_standalone.embedded.port import free_port  # noqa: PLC0415
    from headrace_standalone.metrics import metrics_addresses  # noqa: PLC0415
    from headrace_standalone.stack import Plan, web_address  # noqa: PLC0415
    from headrace_standalone.up import run  # noqa: PLC0415

    address = os.environ.get("HEADRACE_GATEWAY_ADDRESS") or "127.0.0.1:50051"
    if gateway_port is not None:
        address = f"127.0.0.1:{gateway_port}"
    host, _, port = address.rpartition(":")
    if port == "0":
        address = f"{host}:{free_port()}"
    try:
        plan = Plan(
            workers=workers,
            gateway_address=address,
            metrics_addresses=metrics_addresses(
                workers=workers, web=web, port=metrics_port, environment=os.environ
            ),
            web_address=web_address(web_port, os.environ) if web else "",
            opens_browser=open_browser,
            handlers=handlers,
            log_format=log_format,
            ephemeral=ephemeral,
            show_logs=show_logs,
            secure=secure,
        )
        with _folder(data, ephemeral=ephemeral) as folder:
            return run(plan=plan, folder=folder)
    except (EmbeddedServerError, OSError) as error:
        raise SystemExit(f"headrace: {error}") from None


def _folder(data: Path | None, *, ephemeral: bool) -> AbstractContextManager[DataFolder]:
    from headrace_standalone.embedded.folder import DataFolder  # noqa: PLC0415

    return DataFolder.temporary() if ephemeral else DataFolder.hold(data or Path(".headrace"))
