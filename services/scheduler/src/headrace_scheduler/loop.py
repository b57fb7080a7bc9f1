"""What the scheduler's loops share: each one looks again and again, sooner when woken."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Protocol

import structlog

from headrace_core.domain.errors import Unavailable

_log = structlog.get_logger()

# How long a loop that was woken while it looked waits before it looks again, in seconds. Workers
# have deliveries in advance for far longer.
_BREATH = 0.003


class Loop(Protocol):
    """A loop. `run_once` does what there is to do and returns how long it may wait, in seconds."""

    name: str

    async def run_once(self) -> float:
        """Looks once."""


async def keep_running(loop: Loop, woken: asyncio.Event) -> None:
    """Runs a loop for ever, through faults of its servers and of its own.

    Args:
        loop: the loop.
        woken: ends its wait early.
    """
    while True:
        woken.clear()
        try:
            wait = await loop.run_once()
        except Unavailable as fault:
            _log.warning("loop_failed", loop=loop.name, dependency=fault.dependency)
        except Exception:  # noqa: BLE001 - what one stumbles over must not end the others
            _log.exception("loop_failed", loop=loop.name)
        else:
            if woken.is_set():
                # It is busy: what comes in the meantime is worth one look and not many.
                await asyncio.sleep(_BREATH)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await woken.wait()
            continue
        await asyncio.sleep(random.uniform(0.5, 1.5))
