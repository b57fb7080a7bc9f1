"""Faults in the store functions that the services call, at a given rate and chosen by a seed.

The services are unchanged. In their modules, a wrapper replaces each function and sometimes injects
a fault. Faults are real where possible: running statements are cancelled, connections are cut, and
commits succeed before their callers receive an error.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import cache, wraps
from types import ModuleType
from typing import Any, NamedTuple

import asyncpg
import pytest

from headrace_core.domain.errors import Unavailable
from headrace_core.store.sql.connection import Connection

_SERVICES = (
    "headrace_gateway",
    "headrace_health",
    "headrace_scheduler",
    "headrace_worker",
    "headrace_core.wake",
)
# Handlers do not use the store, and some need optional packages.
_EXCLUDED = ("headrace_handlers", ".__main__")
_STORE = "headrace_core.store."
# The load runs without access control.
_ACCESS = "headrace_core.store.access."

# Shortest and longest durations in seconds: a slow call, the time until a call is cut, and a
# session.
_SLOW_CALL_S = (0.05, 0.3)
_CUT_AFTER_S = (0.0, 0.004)
_SESSION_S = (0.1, 0.5)


class Fault(StrEnum):
    """A fault injected into a call."""

    FAILED_BEFORE = "failed before it ran"
    TIMED_OUT = "executed, but timed out"
    SLOW = "slow"
    CANCELLED = "cancelled while it ran"
    CONNECTION_LOST = "connection lost while it ran"


class Point(NamedTuple):
    """A store function in a module of a service."""

    module: ModuleType
    method: str


@cache
def points() -> tuple[Point, ...]:
    """Return every module and store function of a service, except those of access control."""
    return tuple(
        Point(module, name)
        for module in _modules()
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__.startswith(_STORE)
        and not value.__module__.startswith(_ACCESS)
        and inspect.iscoroutinefunction(value)
    )


def _modules() -> Iterator[ModuleType]:
    for name in _SERVICES:
        package = importlib.import_module(name)
        yield package
        for module_info in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part in module_info.name for part in _EXCLUDED):
                yield importlib.import_module(module_info.name)


class FaultPoints:
    """Injects faults into calls of the store.

    Attributes:
        rate: the share of calls with a fault, 0 to 1. The first call of each armed method always
            gets a fault.
        counts: the number of faults so far, by method and kind.

    Args:
        seed: the seed of all random decisions.
    """

    def __init__(self, seed: int) -> None:
        self.rate = 0.0
        self.counts: Counter[tuple[str, Fault]] = Counter()
        self._rng = random.Random(seed)
        self._armed: Collection[str] = ()
        self._fresh: set[str] = set()
        self._changed = asyncio.Event()
        # Transactions whose commit succeeds although it raises an error.
        self._lost_commits: set[Connection] = set()

    @contextmanager
    def armed(self, methods: Collection[str], *, rate: float) -> Iterator[None]:
        """Inject faults into calls of `methods` for the duration of the block."""
        self.rate, self._armed, self._fresh = rate, methods, set(methods)
        try:
            yield
        finally:
            self._armed = ()

    async def have_had_faults(self, methods: Collection[str], *, faults: int) -> None:
        """Wait until each of `methods` has had at least `faults` faults."""
        while any(self.faults_of(method) < faults for method in methods):
            self._changed.clear()
            await self._changed.wait()

    def faults_of(self, method: str) -> int:
        """Return the number of faults injected into a method."""
        return sum(self.counts[method, fault] for fault in Fault)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wrap the store functions in the modules of the services."""
        wrapped: dict[Any, Any] = {}
        for module, method in points():
            function = getattr(module, method)
            if function not in wrapped:
                wrapped[function] = self._wrap(function)
            monkeypatch.setattr(module, method, wrapped[function])
        commit = Connection.commit

        async def commit_and_lose_response(connection: Connection) -> None:
            lost = connection in self._lost_commits and connection._open
            self._lost_commits.discard(connection)
            await commit(connection)
            if lost:
                raise TimeoutError

        monkeypatch.setattr(Connection, "commit", commit_and_lose_response)

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        [first, *_] = inspect.signature(function).parameters.values()
        if first.annotation == "Connection":
            return self._wrap_statements(function)
        assert first.annotation == "Database", (
            f"{function} has neither a connection nor a database as its first parameter"
        )
        return self._wrap_session(function)

    def _wrap_statements(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @wraps(function)
        async def call(connection: Connection, *args: Any, **options: Any) -> Any:
            match self._draw(function.__name__, tuple(Fault)):
                case None:
                    pass
                case Fault.FAILED_BEFORE:
                    raise asyncpg.ConnectionDoesNotExistError("lost before the call")
                case Fault.TIMED_OUT:
                    result = await function(connection, *args, **options)
                    if not connection._open:
                        raise TimeoutError
                    # In a transaction, the response to the commit is lost.
                    self._lost_commits.add(connection)
                    return result
                case Fault.SLOW:
                    await asyncio.sleep(self._rng.uniform(*_SLOW_CALL_S))
                case Fault.CANCELLED:
                    async with asyncio.timeout(self._rng.uniform(*_CUT_AFTER_S)):
                        return await function(connection, *args, **options)
                case Fault.CONNECTION_LOST:
                    cut = asyncio.get_running_loop().call_later(
                        self._rng.uniform(*_CUT_AFTER_S), connection._driver._transport.abort
                    )
                    try:
                        return await function(connection, *args, **options)
                    finally:
                        cut.cancel()
            return await function(connection, *args, **options)

        return call

    def _wrap_session(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """Wrap a function that opens its own connection."""
        name = function.__name__
        kinds = (Fault.FAILED_BEFORE, Fault.SLOW, Fault.CONNECTION_LOST)

        async def call(*args: Any, **options: Any) -> Any:
            fault = self._draw(name, kinds)
            if fault is Fault.FAILED_BEFORE:
                raise Unavailable("postgresql")
            if fault is Fault.SLOW:
                await asyncio.sleep(self._rng.uniform(*_SLOW_CALL_S))
            if fault is not Fault.CONNECTION_LOST:
                return await function(*args, **options)
            try:
                async with asyncio.timeout(self._rng.uniform(*_SESSION_S)):
                    return await function(*args, **options)
            except TimeoutError:
                raise Unavailable("postgresql") from None

        return call

    def _draw(self, method: str, kinds: tuple[Fault, ...]) -> Fault | None:
        if method not in self._armed:
            return None
        if method not in self._fresh and self._rng.random() >= self.rate:
            return None
        self._fresh.discard(method)
        fault = self._rng.choice(kinds)
        self.counts[method, fault] += 1
        self._changed.set()
        return fault
