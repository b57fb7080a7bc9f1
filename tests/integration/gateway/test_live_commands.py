"""Commands that follow the gateway on a real terminal, until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace import Client
from headrace_core.domain.job_log import LogLevel, LogLine
from headrace_gateway.service import Gateway
from support.gateway import TIMEOUT, FakeWorker
from support.terminal import StartTerminal, Terminal, headrace_terminals

_SHOW_CURSOR = "\x1b[?25h"
_HIDE_CURSOR = "\x1b[?25l"


@pytest.fixture
def target(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


@pytest.fixture
def start(target: str, tmp_path: Path) -> Iterator[StartTerminal]:
    """Return a function that starts the command line on a terminal."""
    with headrace_terminals(target, tmp_path, terminal_type="xterm") as start:
        yield start


def line(message: str) -> LogLine:
    return LogLine(datetime.now(UTC), LogLevel.INFO, "shop.orders", message)


async def interrupt(terminal: Terminal) -> None:
    """Press Ctrl-C, and check that the command ends with code 130 and without an error."""
    terminal.interrupt()
    assert await asyncio.to_thread(terminal.end) == 130, terminal.output
    assert terminal.echoes
    assert "Traceback" not in terminal.output
    assert "rror" not in terminal.output


async def test_stats_watch_updates_until_ctrl_c(target: str, start: StartTerminal) -> None:
    terminal = start("stats", "--watch")
    async with asyncio.timeout(TIMEOUT), Client(target) as client:
        await client.submit("test", queue="first-queue")
        await asyncio.to_thread(terminal.until_shown, "first-queue")
        # The second update appears without another command.
        await client.submit("test", queue="second-queue")
        await asyncio.to_thread(terminal.until_shown, "second-queue")
        await interrupt(terminal)
    assert _HIDE_CURSOR in terminal.output
    assert terminal.output.rfind(_SHOW_CURSOR) > terminal.output.rfind(_HIDE_CURSOR)


async def test_logs_follow_prints_lines_until_ctrl_c(
    target: str, worker: FakeWorker, start: StartTerminal
) -> None:
    async with asyncio.timeout(TIMEOUT), Client(target) as client:
        job = await client.submit("square_sum", {"data": [1]})
        await worker.start_job(job.id)
        await worker.log(job.id, line("first line"), last=1)
        terminal = start("logs", job.id, "--follow")
        await asyncio.to_thread(terminal.until_shown, "first line")
        await worker.log(job.id, line("second line"), last=2)
        await asyncio.to_thread(terminal.until_shown, "second line")
        await interrupt(terminal)
