"""All processes of `headrace up`, in start order."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from headrace_core.runtime.settings import Settings
from headrace_core.runtime.variables import misspelled_variables
from headrace_standalone import services
from headrace_standalone.admin_key import create_first_admin_key, settings_of
from headrace_standalone.certificates import Certificates, ensure_certificates
from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.port import free_port, is_free
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from headrace_standalone.embedded.valkey import EmbeddedValkey
from headrace_standalone.log_file import LogFile
from headrace_standalone.migration import migrate
from headrace_standalone.program import Program
from headrace_standalone.supervised import SupervisedProgram

_WEB_PORT: Final = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of `headrace up`.

    Args:
        workers: the number of workers.
        gateway_address: `host:port` of the API; the port is not 0.
        web_address: `host:port` of the web service; the port is not 0. Empty for no web service.
        metrics_addresses: the metrics address (`host:port`) of each process that has one, by name.
        handlers: modules with handlers, in addition to HEADRACE_HANDLERS.
        log_format: `json` or `console`.
        ephemeral: whether the data folder is deleted at the end.
        show_logs: whether to print the output of the processes.
        secure: whether the API has TLS and access control.
        opens_browser: whether to open the web address in the browser.
    """

    workers: int = 1
    gateway_address: str = "127.0.0.1:50051"
    web_address: str = ""
    metrics_addresses: Mapping[str, str] = field(default_factory=dict)
    handlers: tuple[str, ...] = ()
    log_format: str = "console"
    ephemeral: bool = False
    show_logs: bool = False
    secure: bool = False
    opens_browser: bool = False


class Stack:
    """The whole platform on this machine.

    Embedded servers are started if HEADRACE_DATABASE_URL or HEADRACE_REDIS_URL is not set.

    Args:
        plan: the processes to start.
        folder: the locked data folder.
        announce: called with a sentence about each event.

    Attributes:
        files: the folder for job files.
        certificates: the certificates of the API; None unless the plan is secure.
        admin_key: the new API key of the platform; None if this start created none.
    """

    def __init__(self, *, plan: Plan, folder: DataFolder, announce: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._announce = announce
        self.certificates: Certificates | None = None
        self.admin_key: str | None = None
        secured: dict[str, Any] = {}
        if plan.secure:
            host = plan.gateway_address.rpartition(":")[0]
            self.certificates = ensure_certificates(folder, host=host)
            secured = {
                "tls_cert": str(self.certificates.cert),
                "tls_key": str(self.certificates.key),
                "access_control": True,
            }
        settings = Settings(**secured)
        self._grace = settings.shutdown_grace
        # After the shutdown grace, running jobs are cancelled. They must then end within
        # the cancel grace period.
        self._worker_grace = settings.shutdown_grace + settings.worker_cancel_grace
        self.files = self._find_files()
        handlers = (*filter(None, [os.environ.get("HEADRACE_HANDLERS")]), *plan.handlers)
        self._environment = os.environ | {
            "HEADRACE_LOG_FORMAT": plan.log_format,
            "HEADRACE_REFLECTION": os.environ.get("HEADRACE_REFLECTION", "true"),
            "HEADRACE_FILES_ROOT": str(self.files),
            "HEADRACE_HANDLERS": ",".join(handlers),
            # A client in a handler connects to this platform, regardless of the environment.
            "HEADRACE_TARGET": reachable_address(plan.gateway_address),
        }
        if self.certificates is not None:
            self._environment |= {
                "HEADRACE_ACCESS_CONTROL": "true",
                # The web service names the address of each browser, so failed logins count for it.
                "HEADRACE_TRUSTED_PROXIES": os.environ.get(
                    "HEADRACE_TRUSTED_PROXIES", "127.0.0.0/8,::1"
                ),
                "HEADRACE_TLS_CA": str(self.certificates.ca),
            }
        # The stages in start order. The programs of a stage start and stop together.
        self._stages: list[list[SupervisedProgram]] = []

    async def start(self) -> None:
        """Start all programs and wait until they serve. After a failure call `stop`.

        Raises:
            EmbeddedServerError: an embedded server cannot be set up, or a port is taken.
            ProgramFailedError: a program did not start serving.
        """
        for name, suggestion in misspelled_variables(os.environ).items():
            self._announce(f"{name} is not a setting and is ignored; did you mean {suggestion}?")
        self._check_addresses()
        await self._start_servers()
        log = self._log("migrate")
        try:
            await migrate(environment=self._environment, log=log, announce=self._announce)
        finally:
            log.close()
        environment, metrics = self._environment, self._plan.metrics_addresses
        gateway = services.gateway(
            address=self._plan.gateway_address,
            metrics_address=metrics.get("gateway", ""),
            environment=environment
            | self._server_variables("HEADRACE_GATEWAY_ADDRESS", self._plan.gateway_address),
            grace=self._grace,
        )
        scheduler = services.scheduler(
            address=f"127.0.0.1:{free_port()}",
            metrics_address=metrics.get("scheduler", ""),
            environment=environment,
            grace=self._grace,
        )
        workers = [
            services.worker(
                number=number,
                address=f"127.0.0.1:{free_port()}",
                metrics_address=metrics.get(f"worker-{number}", ""),
                environment=environment,
                grace=self._worker_grace,
            )
            for number in range(1, self._plan.workers + 1)
        ]
        await self._start_stages([gateway], [scheduler], workers, self._web())
        if self._plan.secure:
            # At the end, because the key is shown only once.
            self.admin_key = await create_first_admin_key(settings_of(self._environment))

    def _web(self) -> list[Program]:
        """Return the web service, which needs no access to the servers of the data."""
        address = self._plan.web_address
        if not address:
            return []
        environment = self._environment | self._server_variables("HEADRACE_WEB_ADDRESS", address)
        for name in ("HEADRACE_DATABASE_URL", "HEADRACE_REDIS_URL"):
            environment.pop(name, None)
        return [
            services.web(
                address=address,
                metrics_address=self._plan.metrics_addresses.get("web", ""),
                environment=environment,
                grace=self._grace,
            )
        ]

    def _server_variables(self, name: str, address: str) -> dict[str, str]:
        """Return the variables of a server with TLS at `address`; none without TLS."""
        if self.certificates is None:
            return {}
        return {
            name: address,
            "HEADRACE_TLS_CERT": str(self.certificates.cert),
            "HEADRACE_TLS_KEY": str(self.certificates.key),
        }

    async def stop(self) -> None:
        """Stop all programs, in the reverse order of their start."""
        for stage in reversed(self._stages):
            await asyncio.gather(*(supervised.stop() for supervised in stage))

    def kill(self) -> None:
        """Kill all programs at once; `stop` then returns soon."""
        for stage in self._stages:
            for supervised in stage:
                supervised.kill()

    async def _start_servers(self) -> None:
        postgres: list[Program] = []
        valkey: list[Program] = []
        if not os.environ.get("HEADRACE_DATABASE_URL"):
            server = await asyncio.to_thread(
                EmbeddedPostgres,
                folder=self._folder,
                ephemeral=self._plan.ephemeral,
                announce=self._announce,
            )
            postgres.append(server.program())
            self._environment["HEADRACE_DATABASE_URL"] = server.url
        if not os.environ.get("HEADRACE_REDIS_URL"):
            cache = EmbeddedValkey(folder=self._folder)
            valkey.append(cache.program())
            self._environment["HEADRACE_REDIS_URL"] = cache.url
        await self._start_stages(postgres, valkey)

    async def _start_stages(self, *stages: list[Program]) -> None:
        """Start the programs of all stages concurrently."""
        started = [
            [
                SupervisedProgram(program, log=self._log(program.name), announce=self._announce)
                for program in stage
            ]
            for stage in stages
        ]
        self._stages += started
        await asyncio.gather(*(supervised.start() for stage in started for supervised in stage))

    def _find_files(self) -> Path:
        if root := os.environ.get("HEADRACE_FILES_ROOT"):
            return Path(root)
        files = self._folder.path / "files"
        files.mkdir(exist_ok=True)
        return files

    def _check_addresses(self) -> None:
        metrics = self._plan.metrics_addresses.values()
        for address, option in (
            (self._plan.gateway_address, "--gateway-port"),
            *([(self._plan.web_address, "--web-port")] if self._plan.web_address else []),
            *((address, "--metrics-port") for address in metrics),
        ):
            host, _, port = address.rpartition(":")
            if not is_free(host.strip("[]"), int(port)):
                raise EmbeddedServerError(
                    f"{address} is in use. Choose another port with {option}."
                )

    def _log(self, name: str) -> LogFile:
        echo = partial(_echo, name) if self._plan.show_logs else None
        return LogFile(self._folder.logs / f"{name}.log", echo=echo)


def web_address(port: int | None, environment: Mapping[str, str]) -> str:
    """Return `host:port` of the web service.

    Args:
        port: the port on 127.0.0.1; 0 selects a free port. None to use HEADRACE_WEB_ADDRESS, or
            otherwise port 8080 or a free port.
        environment: the variables of the process.
    """
    address = environment.get("HEADRACE_WEB_ADDRESS", "")
    if port is not None:
        address = f"127.0.0.1:{port}"
    elif not address:
        port = _WEB_PORT if is_free("127.0.0.1", _WEB_PORT) else free_port()
        address = f"127.0.0.1:{port}"
    host, _, number = address.rpartition(":")
    return f"{host}:{free_port()}" if number == "0" else address


def reachable_address(address: str) -> str:
    """Return the address at which this machine reaches a server that listens on `address`."""
    host, _, port = address.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"  # noqa: S104


def _echo(name: str, line: str) -> None:
    sys.stderr.write(f"[{name}] {line}\n")
