"""What the scheduler's loops share: each one looks again and again, sooner when woken."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Final, Protocol

import structlog

from headrace_core.domain.errors import StaleTerm, Unavailable

_log = structlog.get_logger()


# The breath of a loop that has no pace of its own, in seconds.
BREATH: Final = 0.02


class Loop(Protocol):
    """A loop. `run_once` does what there is to do and returns how long it may wait, in seconds.

    Between two looks there are `breath` seconds at least: what comes in the meantime is worth one
    look and not many.
    """

    name: str
    breath: float

    async def run_once(self) -> float:
        """Looks once."""


async def keep_running(loop: Loop, woken: asyncio.Event) -> None:
    """Runs a loop for ever, through faults of its servers and of its own.

    Args:
        loop: the loop.
        woken: ends its wait early.

    Raises:
        StaleTerm: the scheduler leads no more.
    """
    clock = asyncio.get_running_loop().time
    while True:
        woken.clear()
        try:
            wait = await loop.run_once()
        except StaleTerm:
            _log.warning("stale_write_refused", loop=loop.name)
            raise
        except Unavailable as fault:
            _log.warning(
                "loop_failed", loop=loop.name, dependency=fault.dependency, cause=fault.cause
            )
        except Exception:  # noqa: BLE001 - what one stumbles over must not end the others
            _log.exception("loop_failed", loop=loop.name)
        else:
            rested = clock() + loop.breath
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await woken.wait()
            if (left := rested - clock()) > 0:
                await asyncio.sleep(left)
            continue
        await asyncio.sleep(random.uniform(0.5, 1.5))
