"""`headrace workers` and `headrace queues`, and the live view of `headrace stats --watch`."""

from __future__ import annotations

from contextlib import aclosing

from rich.live import Live

from headrace.cli.output import json_line
from headrace.cli.session import Injected, Session
from headrace.cli.tables import overview_view, queues_table, workers_table


async def workers(*, session: Injected) -> None:
    async with session.client() as client:
        found = [worker async for worker in client.workers()]
    session.output.values(found, workers_table(found) if found else "no workers")


async def queues(*, session: Injected) -> None:
    async with session.client() as client:
        found = [queue async for queue in client.queues()]
    session.output.values(found, queues_table(found) if found else "no queues")


async def watch_overview(session: Session) -> None:
    """Show the overview until Ctrl-C: a live view, or each overview if the output is piped."""
    writer = session.output
    async with session.client() as client, aclosing(client.watch_overview()) as overviews:
        if writer.format != "text":
            async for overview in overviews:
                writer.line(json_line(overview))
            return
        if not writer.console.is_terminal:
            async for overview in overviews:
                writer.console.print(overview_view(overview))
            return
        with Live(console=writer.console, auto_refresh=False, transient=False) as live:
            async for overview in overviews:
                live.update(overview_view(overview), refresh=True)
