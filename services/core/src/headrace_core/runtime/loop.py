"""The runner of all loops: pacing, wake-ups, retries and records of runs.

The design follows River: all loops start and stop in the same way
(rivershared/startstop/start_stop.go), and report their runs. Tests can therefore wait for a
run instead of sleeping.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import NoReturn

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.tasks import end_tasks

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations for failure handling.

    Attributes:
        retry: shortest and longest wait before a failed run is retried, in seconds.
        patience: seconds without a successful run after which a fault counts as an outage.
    """

    retry: tuple[float, float] = (0.5, 1.5)
    patience: float = 10.0


class Signal:
    """Counts how often something happened. A test can wait for a count instead of sleeping."""

    __slots__ = ("_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def fire(self) -> None:
        """Count one more occurrence."""
        self.count += 1
        for count, reached in self._waiting:
            if count <= self.count:
                reached.set()

    async def wait_for_count(self, count: int) -> None:
        """Wait until the count is at least `count`."""
        if self.count >= count:
            return
        entry = (count, asyncio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        finally:
            self._waiting.remove(entry)

    async def wait_for_more(self, times: int = 1) -> None:
        """Wait for `times` more occurrences."""
        await self.wait_for_count(self.count + times)


@dataclass(slots=True)
class LoopRecord:
    """The runs of all loops with the same name.

    Attributes:
        runs: successful runs.
        failures: failed runs.
        running: whether a loop with this name is running.
        last_success: time of the last successful run, or of the start, by the runner's clock.
    """

    runs: Signal = field(default_factory=Signal)
    failures: Signal = field(default_factory=Signal)
    running: bool = False
    last_success: float = -inf


class LoopRecords(defaultdict[str, LoopRecord]):
    """The records of a process's loops, by name. The metrics are computed from them."""

    def __init__(self, records: Mapping[str, LoopRecord] | None = None) -> None:
        super().__init__(LoopRecord, records or {})


class Wake:
    """A flag that ends the wait of one loop; it stays set until the loop runs again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the loop's current wait, or its next wait if the loop is running."""
        self._event.set()

    def clear(self) -> None:
        """Discard earlier wake-ups, because the next run reads the changes that caused them."""
        self._event.clear()

    async def sleep(self, seconds: float) -> None:
        """Wait until the flag is set, but at most `seconds`."""
        if self._event.is_set():
            return
        # The timer ends the wait like a wake-up. asyncio.timeout() costs more.
        timer = asyncio.get_running_loop().call_later(seconds, self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()


class Loop(ABC):
    """Work that is repeated until its runner stops.

    Attributes:
        name: the name of the loop, in logs and metrics.
        topics: the topics whose wake-ups end the wait.
        pause: shortest time from the end of a run to the next run, in seconds. One run handles all
            changes during the pause.
        first_wait: seconds before the first run.
        retry: shortest and longest wait before a failed run is retried, in seconds; None for the
            values of the runner's timing.
        fallbacks: the dependencies that the platform can do without, each with its replacement. An
            outage of such a dependency is logged as a warning.
    """

    name: str
    topics: tuple[str, ...] = ()
    pause: float = 0.02
    first_wait: float = 0.0
    retry: tuple[float, float] | None = None
    fallbacks: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    async def run_once(self) -> float:
        """Do the work that is due.

        Returns:
            Seconds until the next run, unless a wake-up ends the wait.
        """

    def accepts(self, topic: str) -> bool:  # noqa: ARG002 - overrides use it
        """Return whether a wake-up of `topic`, one of `topics`, ends the wait now."""
        return True

    def on_failure(self) -> None:  # noqa: B027 - a hook that most loops do not need
        """Called after each failed run."""

    def on_outage(self) -> None:  # noqa: B027 - a hook that most loops do not need
        """Called after each failed run once the runner's patience has run out."""

    async def rest(self, wake: Wake, seconds: float) -> None:
        """Wait after a successful run.

        Args:
            wake: ends the wait early.
            seconds: the result of `run_once`.
        """
        clock = asyncio.get_running_loop().time
        earliest = clock() + self.pause
        await wake.sleep(seconds)
        if (left := earliest - clock()) > 0:
            await asyncio.sleep(left)


class LoopRunner:
    """Runs a loop until it is stopped, and retries after server failures and errors of the loop.

    It logs a failure when the kind of fault changes, and logs each outage and recovery once.

    Args:
        loop: the work.
        wake: ends the loop's waits early; None if each wait always lasts its full time.
        timing: the durations of retries.
        fatal: errors that end the loop; after any other error the run is retried.
        records: receives a record of each run, under the name of the loop.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        wake: Wake | None = None,
        timing: Timing | None = None,
        fatal: tuple[type[Exception], ...] = (),
        records: LoopRecords | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._wake = Wake() if wake is None else wake
        self._timing = Timing() if timing is None else timing
        self._fatal = fatal
        self._clock = clock
        self.record = (LoopRecords() if records is None else records)[loop.name]
        # The kind of fault that was logged last; empty while runs succeed.
        self._logged_fault = ""
        # The level of the outage that was logged last; 0 without an outage.
        self._outage_level = 0
        self._task: asyncio.Task[NoReturn] | None = None

    def start(self) -> asyncio.Task[NoReturn]:
        """Run the loop in a task, which ends with a fatal error or a cancellation."""
        self._task = asyncio.create_task(self.run(), name=self._loop.name)
        return self._task

    async def stop(self, *, within: float | None = None) -> None:
        """Cancel the loop and wait up to `within` seconds for it to end."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task, within=within)

    async def run(self) -> NoReturn:
        """Run the loop until it is cancelled.

        Raises:
            Exception: one of the fatal errors.
        """
        record = self.record
        record.running, record.last_success = True, self._clock()
        try:
            if self._loop.first_wait:
                await self._wake.sleep(self._loop.first_wait)
            while True:
                self._wake.clear()
                try:
                    seconds = await self._loop.run_once()
                except self._fatal:
                    raise
                except Exception as error:  # noqa: BLE001 - a loop that ends would go unnoticed
                    self._on_failure(error)
                    await asyncio.sleep(random.uniform(*(self._loop.retry or self._timing.retry)))
                    continue
                if self._logged_fault:
                    self._on_recovery()
                record.last_success = self._clock()
                record.runs.fire()
                await self._loop.rest(self._wake, seconds)
        finally:
            record.running = False

    def _on_failure(self, error: Exception) -> None:
        name, kind = self._loop.name, type(error).__name__
        if isinstance(error, Unavailable):
            kind += error.dependency
        if self._logged_fault != kind:
            self._logged_fault = kind
            if isinstance(error, Unavailable):
                _log.warning(
                    "loop_failed", loop=name, dependency=error.dependency, cause=error.cause
                )
            elif isinstance(error, TimeoutError):
                _log.warning("loop_failed", loop=name, cause="TimeoutError")
            else:
                _log.error("loop_failed", loop=name, exc_info=error)
        self._loop.on_failure()
        failed_for = self._clock() - self.record.last_success
        if failed_for > self._timing.patience:
            self._log_outage(error, failed_for)
            self._loop.on_outage()
        self.record.failures.fire()

    def _log_outage(self, error: Exception, failed_for: float) -> None:
        """Log an outage once, and again if a required dependency fails after an optional one."""
        facts: dict[str, object] = {"loop": self._loop.name, "failed_for_s": round(failed_for, 1)}
        level = logging.ERROR
        dependency = error.dependency if isinstance(error, Unavailable) else ""
        if dependency in self._loop.fallbacks:
            level = logging.WARNING
            facts |= {"dependency": dependency, "fallback": self._loop.fallbacks[dependency]}
        if level > self._outage_level:
            self._outage_level = level
            _log.log(level, "loop_outage", **facts)

    def _on_recovery(self) -> None:
        failed_for = self._clock() - self.record.last_success
        _log.info("loop_recovered", loop=self._loop.name, failed_for_s=round(failed_for, 1))
        self._logged_fault, self._outage_level = "", 0
