"""`python bench/web`: measure the dashboard with many jobs, and with many open dashboards.

The program starts a PostgreSQL, a Valkey, a gateway and a web service, stores jobs, and measures:

- the time until the overview and the jobs page show data in a new browser;
- the delay from a commit until the pages show it, idle and under load;
- the CPU time and the memory of the web service with many open dashboards under load, and the
  streams that it has at the gateway: with one credential, and with a credential for each dashboard.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Import from the repository root, not from this folder.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.child import Child  # noqa: E402 - needs the path above
from bench.compare.databases import Databases  # noqa: E402
from bench.compare.earlier_jobs import EarlierJobs, fill  # noqa: E402
from bench.machine import read_machine  # noqa: E402
from bench.stack import Service, Stack  # noqa: E402
from bench.table import Table  # noqa: E402
from bench.usage import CpuMeter, resident_kib  # noqa: E402
from bench.web import browser, dashboards, load  # noqa: E402
from bench.web.dashboards import Dashboard, Received  # noqa: E402
from headrace_core.domain.access import Role, Scope  # noqa: E402
from headrace_core.domain.api_key import new_api_key  # noqa: E402
from headrace_core.domain.job import DEFAULT_TENANT  # noqa: E402
from headrace_core.runtime.settings import Settings  # noqa: E402
from headrace_core.store.access.keys import create_api_key  # noqa: E402
from headrace_core.store.sql.database import Database  # noqa: E402
from headrace_core.store.sql.installation import read_installation  # noqa: E402
from headrace_core.wake import WakeBus  # noqa: E402
from headrace_standalone.embedded.port import free_port  # noqa: E402

# The share of jobs that wait; the others have ended.
_WAITING = 0.1
_WARM_UP_S = 3.0
_ANSWER_TIMEOUT_S = 180.0
_FEEDS = {"overview": "/feed/overview", "jobs": "/feed/jobs?pageSize=50"}


@dataclass(slots=True)
class Measurements:
    """The results as tables."""

    pages: Table = field(
        default_factory=lambda: Table(
            "Pages in a browser, in ms", ["page", "median", "p95", "max", "times"]
        )
    )
    load: Table = field(
        default_factory=lambda: Table(
            "Open dashboards",
            [
                "dashboards",
                "events/s",
                "messages/s each",
                "CPU of web",
                "CPU of gateway",
                "memory of web",
                "streams",
            ],
        )
    )

    def add_page(self, name: str, seconds: Sequence[float]) -> None:
        """Add the times of a page, in seconds."""
        found = sorted(seconds)
        figures = statistics.median(found), found[int(0.95 * (len(found) - 1))], found[-1]
        self.pages.rows.append(
            [name, *(f"{figure * 1000:,.0f}" for figure in figures), f"{len(found)}"]
        )


async def measure(
    options: argparse.Namespace, announce: Callable[[str], None]
) -> tuple[list[str], Measurements]:
    """Start the platform and measure.

    Returns:
        The description of the machine, and the results.
    """
    async with AsyncExitStack() as running:
        stack = await running.enter_async_context(Stack.running())
        machine = (await read_machine(stack.settings)).lines()
        if options.jobs:
            announce(f"storing {options.jobs:,} jobs")
            await _store_jobs(stack, options.jobs)
        writer = running.enter_context(
            Child.running("writer", load.write, stack.settings, DEFAULT_TENANT)
        )
        bench = _Bench(stack, writer, options, announce)
        async with bench.platform({}) as platform:
            if options.times:
                await bench.measure_pages(platform)
            await bench.measure_load(platform, [""] * options.dashboards)
        if options.keys:
            keys = await _create_keys(stack.settings, options.dashboards)
            async with bench.platform({"HEADRACE_ACCESS_CONTROL": "true"}) as platform:
                await bench.measure_load(platform, keys)
    return machine, bench.measured


async def _store_jobs(stack: Stack, count: int) -> None:
    databases = Databases(stack)
    url = stack.settings.postgresql_url
    waiting = round(count * _WAITING)
    await fill(databases, url, EarlierJobs.FINISHED, count - waiting)
    await fill(databases, url, EarlierJobs.UNSERVED, waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Platform:
    """A gateway with the address of its metrics, and a web service."""

    gateway: Service
    metrics: str
    web: Service


class _Bench:
    def __init__(
        self,
        stack: Stack,
        writer: Child,
        options: argparse.Namespace,
        announce: Callable[[str], None],
    ) -> None:
        self.measured = Measurements()
        self._stack = stack
        self._writer = writer
        self._options = options
        self._announce = announce

    @asynccontextmanager
    async def platform(self, environment: Mapping[str, str]) -> AsyncIterator[_Platform]:
        """Run a gateway and a web service for the duration of the block."""
        metrics = f"127.0.0.1:{free_port()}"
        settings = {"HEADRACE_GATEWAY_METRICS_ADDRESS": metrics, **environment}
        async with (
            self._stack.gateway(settings) as gateway,
            self._stack.web(gateway) as web,
        ):
            yield _Platform(gateway=gateway, metrics=metrics, web=web)

    async def measure_pages(self, platform: _Platform) -> None:
        """Measure the pages in a browser."""
        url = f"http://{platform.web.address}"
        options, settings = self._options, self._stack.settings
        database = Database(settings, application="bench")
        bus = WakeBus(settings, database)
        await bus.start()
        probe = load.Writer(database, bus, DEFAULT_TENANT)
        async with browser.chromium() as chromium:
            for path in browser.FIRST_DATA:
                self._announce(f"opening {path}")
                times = await browser.opening_times(chromium, url, path, times=options.times)
                self.measured.add_page(f"open {path}", times)
            for page in browser.PAGES:
                # Counts and the newest jobs change all the time under load.
                for rate in (0.0,) if page != "filtered jobs" else (0.0, options.rate):
                    self._announce(f"delay of {page} at {rate:g} events/s")
                    await self._set_rate(rate)
                    delays = await browser.delays(
                        chromium, url, probe, page=page, times=4 * options.times
                    )
                    self.measured.add_page(f"commit to {page} at {rate:g} events/s", delays)
        await self._set_rate(0.0)
        await bus.stop()
        await database.close()

    async def measure_load(self, platform: _Platform, keys: Sequence[str]) -> None:
        """Measure the services with a dashboard for each key, idle and under load."""
        kind = "different credentials" if len(set(keys)) > 1 else "one credential"
        for name, path in _FEEDS.items():
            self._announce(f"{len(keys)} dashboards of {name}, {kind}")
            opened = [Dashboard(path=path, key=key) for key in keys]
            with Child.running(
                "dashboards", dashboards.read, platform.web.address, opened
            ) as reader:
                await reader.link.receive(Received, timeout=_ANSWER_TIMEOUT_S)
                for rate in (0.0, self._options.rate):
                    await self._set_rate(rate)
                    await asyncio.sleep(_WARM_UP_S)
                    figures = await self._figures(platform, reader, rate, len(keys))
                    self.measured.load.rows.append([f"{len(keys)} {name}, {kind}", *figures])
            await self._set_rate(0.0)

    async def _figures(
        self, platform: _Platform, reader: Child, rate: float, count: int
    ) -> list[str]:
        meter = CpuMeter({"web": platform.web.pid, "gateway": platform.gateway.pid})
        seconds = self._options.seconds
        await self._set_rate(rate)
        before = await _received(reader)
        start = meter.sample()
        await asyncio.sleep(seconds)
        shares = start.core_shares(meter.sample())
        after = await _received(reader)
        events = await self._set_rate(rate)
        return [
            f"{events / seconds:,.0f}",
            f"{(after.parts - before.parts) / seconds / count:.1f}",
            f"{shares['web']:.1%}",
            f"{shares['gateway']:.1%}",
            f"{resident_kib(platform.web.pid) / 1024:,.0f} MiB",
            f"{await asyncio.to_thread(_streams, platform.metrics):.0f}",
        ]

    async def _set_rate(self, rate: float) -> int:
        """Set the events per second; return the number of events since the last call."""
        self._writer.link.send(rate)
        return await self._writer.link.receive(int, timeout=_ANSWER_TIMEOUT_S)


async def _received(reader: Child) -> Received:
    reader.link.send("")
    return await reader.link.receive(Received, timeout=_ANSWER_TIMEOUT_S)


def _streams(metrics: str) -> float:
    """Return the number of open streams at a gateway."""
    with urllib.request.urlopen(f"http://{metrics}/metrics") as response:
        text = response.read().decode()
    return sum(
        float(value) for value in re.findall(r"^headrace_streams\{.*\} (.*)$", text, re.MULTILINE)
    )


async def _create_keys(settings: Settings, count: int) -> list[str]:
    """Create API keys of operators and return them."""
    database = Database(settings, application="bench")
    keys = []
    async with database.transaction() as conn:
        secret = (await read_installation(conn)).secret
        for number in range(count):
            key = new_api_key(secret)
            await create_api_key(
                conn,
                key_id=key.id,
                secret_hash=key.secret_hash,
                tenant=DEFAULT_TENANT,
                principal=f"bench-{number}",
                role=Role.OPERATOR,
                scope=Scope(),
                created_by="bench",
                expire_time=None,
            )
            keys.append(key.text)
    await database.close()
    return keys


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python bench/web", description="Measure the dashboard under load."
    )
    add = parser.add_argument
    add("--jobs", type=int, default=1_000_000, help="stored jobs (1000000)")
    add("--dashboards", type=int, default=200, help="open dashboards (200)")
    add("--rate", type=float, default=1000.0, help="events per second (1000)")
    add("--seconds", type=float, default=10.0, help="seconds per measurement with load (10)")
    add("--times", type=int, default=10, help="times that pages are opened; 0 for no browser (10)")
    add(
        "--keys",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure with a credential for each dashboard",
    )
    options = parser.parse_args(arguments)

    def announce(line: str) -> None:
        sys.stderr.write(f"bench: {line}\n")

    machine, measured = asyncio.run(measure(options, announce))
    print("\n".join(machine), end="\n\n")
    for table in (measured.pages, measured.load):
        if table.rows:
            print(table.text(), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
