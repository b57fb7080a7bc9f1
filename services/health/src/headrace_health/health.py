"""The health of a process, from checks of its dependencies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from headrace_core.runtime.tasks import end_tasks
from headrace_health.lookup import Lookup
from headrace_health.servicer import HealthServicer

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A dependency and its check.

    Args:
        name: the name of the dependency in statuses and log lines, such as `postgresql`.
        ping: returns if the dependency is available, and raises otherwise.
        required: whether the services are NOT_SERVING without it.
    """

    name: str
    ping: Callable[[], Awaitable[object]]
    required: bool = True


class Health:
    """Runs the checks of a process in a loop; its servicer reports the results.

    A service is SERVING while all required checks pass.

    Args:
        services: full names of gRPC services, each with its own status; "" is always included.
        checks: the dependencies.
        lookups: statuses of names that are not known in advance.
        interval: time between two rounds of checks, in seconds.
        timeout: timeout of a check, in seconds.
    """

    def __init__(
        self,
        *,
        services: Iterable[str] = (),
        checks: Sequence[Check] = (),
        lookups: Sequence[Lookup] = (),
        interval: float = 2.0,
        timeout: float = 2.0,
    ) -> None:
        services = tuple(services)
        self.servicer = HealthServicer(
            services=(*services, *(check.name for check in checks)), lookups=lookups
        )
        self._services = ("", *services)
        self._checks = tuple(checks)
        self._lookups = tuple(lookups)
        self._interval = interval
        self._timeout = timeout
        self._loop: asyncio.Task[None] | None = None

    @property
    def serving(self) -> bool:
        """True while the process is SERVING."""
        return self.servicer.serving()

    def dependencies(self) -> Iterator[tuple[str, bool]]:
        """Yield the name of each dependency, and whether its last check has passed."""
        for check in self._checks:
            yield check.name, self.servicer.serving(check.name)

    async def start(self) -> None:
        """Run all checks once, for a correct first status, and then in a loop."""
        await self.run_once()
        for lookup in self._lookups:
            lookup.start()
        self._loop = asyncio.create_task(self._run(), name="health")

    async def run_once(self) -> None:
        """Run all checks concurrently and set the statuses."""
        alive = await asyncio.gather(*(self._passes(check) for check in self._checks))
        serving = True
        for check, passed in zip(self._checks, alive, strict=True):
            self.servicer.set_serving(check.name, passed)
            serving = serving and (passed or not check.required)
        for service in self._services:
            self.servicer.set_serving(service, serving)

    async def enter_graceful_shutdown(self) -> None:
        """Set NOT_SERVING permanently; call this method before stopping the server."""
        self.servicer.shut_down()
        await asyncio.gather(*(lookup.stop() for lookup in self._lookups))
        if self._loop is not None:
            await end_tasks(self._loop, within=5)
            self._loop = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.run_once()

    async def _passes(self, check: Check) -> bool:
        error: Exception | None = None
        try:
            async with asyncio.timeout(self._timeout):
                await check.ping()
        except Exception as caught:  # noqa: BLE001 - any error means unavailable
            error = caught
        if self.servicer.serving(check.name) != (error is None):
            if error is None:
                _log.info("dependency_available", dependency=check.name)
            else:
                _log.warning(
                    "dependency_unavailable",
                    dependency=check.name,
                    required=check.required,
                    error=type(error).__name__,
                )
        return error is None
