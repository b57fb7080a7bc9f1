"""`make demo`: run the whole platform on this machine, and show each transition of real jobs live.

The demo starts `headrace up` with embedded servers and a temporary database, submits jobs with the
client, follows all of them on one stream, checks the results, and stores the files in
`demo-output`. A concurrent demo in the same checkout writes to `demo-output-2`.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from board import Board
from cases import BULK_SIZE, Case, bulk, cases
from mailbox_server import Mailbox
from platform_process import PlatformFailedError, running_platform
from rich.console import Console
from run import Run
from summary import print_summary

from headrace import CallError, Client

OUTPUT = "demo-output"
# Time limit for the jobs, in seconds; much longer than they need.
DEADLINE_S = 90


async def main(console: Console) -> int:
    """Run the demo and return the exit code."""
    async with AsyncExitStack() as stack:
        output = stack.enter_context(_locked_output_folder())
        files = output / "files"
        files.mkdir()
        mailbox = await stack.enter_async_context(Mailbox.open(output / "mail"))
        console.print("Starting PostgreSQL, Valkey, gateway, scheduler, two workers and web …")
        target, dashboard = await stack.enter_async_context(
            running_platform(files=files, smtp_port=mailbox.port)
        )
        console.print(f"Dashboard, while the demo runs: {dashboard}")
        client = await stack.enter_async_context(Client(target))
        chosen = cases(files)
        run = Run(client=client, label=uuid4().hex[:8])
        board = stack.enter_context(Board(console, chosen, bulk_size=BULK_SIZE))
        async with asyncio.timeout(DEADLINE_S):
            await run.run_all(chosen, bulk(), board)
        board.close()
        return _report(console, run, chosen, mailbox, output)


@contextmanager
def _locked_output_folder() -> Iterator[Path]:
    """Lock the first output folder that no other demo uses, and empty it."""
    for number in itertools.count(1):
        output = Path(OUTPUT if number == 1 else f"{OUTPUT}-{number}")
        output.mkdir(exist_ok=True)
        lock = os.open(output, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for old in output.iterdir():
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            yield output
            return
        finally:
            os.close(lock)


def _report(console: Console, run: Run, chosen: list[Case], mailbox: Mailbox, output: Path) -> int:
    problems = [problem for case in chosen for problem in case.problems()]
    problems += run.bulk_problems()
    problems += mailbox.problems()
    print_summary(console, run, chosen, mailbox, output=output)
    for problem in problems:
        console.print(f"[red]✗[/] {problem}")
    if not problems:
        console.print("[green]✓[/] All results are correct.")
    return 1 if problems else 0


if __name__ == "__main__":
    screen = Console(highlight=False)
    try:
        sys.exit(asyncio.run(main(screen)))
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError:
        screen.print(f"[red]✗[/] The jobs did not end within {DEADLINE_S} s.")
        sys.exit(1)
    except (PlatformFailedError, CallError) as error:
        screen.print(f"[red]✗[/] {error}")
        sys.exit(1)
