"""Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from headrace.cli.exits import Exit


async def interruptible(command: Coroutine[Any, Any, object]) -> object:
    """Runs a command; Ctrl-C cancels it, so that it cleans up and tells where it was.

    A handler of the loop's own is woken by the signal. That of `asyncio.run` is not when the signal
    comes just before the loop begins to wait.
    """
    task = asyncio.ensure_future(command)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    # Windows has no such handlers; there the loop is woken anyway.
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            return Exit.INTERRUPTED
        raise
