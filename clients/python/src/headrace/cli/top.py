"""`headrace top`: a live view on the full screen.

The view uses Rich, which the other commands need anyway. Textual would add a large dependency for a
single screen with four keys.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from headrace import JobState, Overview, QueueStatus, RunningJob, Worker
from headrace.cli.session import Injected
from headrace.cli.tables import overview_view, running_jobs_table
from headrace.cli.usage import UsageError

if TYPE_CHECKING:
    from headrace import Client

# The orders of the queues, in the order of the key `s`.
_ORDERS: Final = ("name", "queued", "running", "oldest")
# Minimum time between two lists of workers, in seconds.
_WORKERS_INTERVAL_S: Final = 1.0
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_HELP: Final = "q quit   s sort queues   / filter   w show or hide running jobs"


@dataclass(frozen=True, slots=True)
class View:
    """The choices of the user, which keys change.

    Attributes:
        order: the order of the queues, an index of the orders.
        text: only queues and running jobs whose queue or type contains this text are shown.
        typing: whether keys change `text`.
        jobs: whether running jobs are shown.
        ended: whether the user has quit.
    """

    order: int = 0
    text: str = ""
    typing: bool = False
    jobs: bool = True
    ended: bool = False

    def press(self, key: str) -> View:
        """Return the view after a key."""
        if self.typing:
            if key in "\r\n":
                return replace(self, typing=False)
            if key == "\x1b":
                return replace(self, typing=False, text="")
            if key in "\x7f\b":
                return replace(self, text=self.text[:-1])
            return replace(self, text=self.text + key) if key.isprintable() else self
        match key:
            case "q":
                return replace(self, ended=True)
            case "s":
                return replace(self, order=(self.order + 1) % len(_ORDERS))
            case "/":
                return replace(self, typing=True)
            case "w":
                return replace(self, jobs=not self.jobs)
            case "\x1b":
                return replace(self, text="")
            case _:
                return self

    def sorted_queues(self, queues: Sequence[QueueStatus]) -> list[QueueStatus]:
        """Return the shown queues in order."""
        orders: dict[str, Callable[[QueueStatus], object]] = {
            "name": lambda queue: queue.queue,
            "queued": lambda queue: -queue.states.get(JobState.QUEUED, 0),
            "running": lambda queue: -queue.states.get(JobState.RUNNING, 0),
            "oldest": lambda queue: queue.oldest_queue_time or _LATEST,
        }
        shown = [queue for queue in queues if self.text in queue.queue]
        return sorted(shown, key=orders[_ORDERS[self.order]])  # type: ignore[arg-type]

    def running_jobs(self, workers: Sequence[Worker]) -> list[tuple[Worker, RunningJob]]:
        """Return the shown running jobs with their workers, the earliest start first."""
        running = [
            (worker, job)
            for worker in workers
            for job in worker.running_jobs
            if self.text in job.queue or self.text in job.type
        ]
        return sorted(running, key=lambda pair: pair[1].start_time or _LATEST)


def render(view: View, overview: Overview | None, workers: Sequence[Worker]) -> RenderableType:
    """Return the screen."""
    if view.typing:
        status = Text(f"filter: {view.text}█   Enter keeps it, Esc removes it")
    else:
        status = Text(f"{_HELP}   order: {_ORDERS[view.order]}", style="dim")
        if view.text:
            status.append(f"   filter: {view.text}")
    if overview is None:
        return Group(status, Text(), Text("waiting for the gateway"))
    shown = replace(overview, queues=tuple(view.sorted_queues(overview.queues)))
    body: list[RenderableType] = [status, Text(), overview_view(shown)]
    if view.jobs and (running := view.running_jobs(workers)):
        body += [Text(), running_jobs_table(running)]
    return Group(*body)


async def top(*, session: Injected) -> None:
    writer = session.output
    if not writer.live or not sys.stdin.isatty():
        raise UsageError("top needs a terminal; use stats --watch -o jsonl in scripts")
    async with session.client() as client:
        with Live(console=writer.console, screen=True, auto_refresh=False) as live:
            await _Screen(client, live).run()


class _Screen:
    """Reads keys and overviews, and draws after each of them."""

    def __init__(self, client: Client, live: Live) -> None:
        self._client = client
        self._live = live
        self._view = View()
        self._overview: Overview | None = None
        self._workers: Sequence[Worker] = ()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Draw until the user quits.

        Raises:
            CallError: the stream has failed.
        """
        self._draw()
        with _keys(self._press):
            quitting = asyncio.create_task(self._ended.wait())
            tasks = [
                quitting,
                asyncio.create_task(self._follow_overview()),
                asyncio.create_task(self._follow_workers()),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _press(self, keys: str) -> None:
        # Keys such as arrows send an escape and further characters, which have no meaning here.
        for key in () if keys.startswith("\x1b[") else keys or "q":
            self._view = self._view.press(key)
        if self._view.ended:
            self._ended.set()
        self._draw()

    def _draw(self) -> None:
        self._live.update(render(self._view, self._overview, self._workers), refresh=True)

    async def _follow_overview(self) -> None:
        async with aclosing(self._client.watch_overview()) as overviews:
            async for overview in overviews:
                self._overview = overview
                self._changed.set()
                self._draw()

    async def _follow_workers(self) -> None:
        """List the running jobs after changes, because overviews contain only their number."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._workers = [worker async for worker in self._client.workers()]
            self._draw()
            await asyncio.sleep(_WORKERS_INTERVAL_S)


@contextmanager
def _keys(press: Callable[[str], None]) -> Iterator[None]:
    """Call `press` with each key that the user types, without echo, during the block."""
    import termios  # noqa: PLC0415 - not available on Windows
    import tty  # noqa: PLC0415 - not available on Windows

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()
    tty.setcbreak(terminal)
    loop.add_reader(terminal, lambda: press(os.read(terminal, 64).decode(errors="ignore")))
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
