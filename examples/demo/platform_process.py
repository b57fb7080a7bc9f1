"""The process of `headrace up` in the demo."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

# Time limits of start and stop, in seconds; much longer than needed.
_START_S = 60
_STOP_S = 30


class PlatformFailedError(Exception):
    """The platform did not start; the screen shows its output."""


@asynccontextmanager
async def running_platform(*, files: Path, smtp_port: int) -> AsyncIterator[tuple[str, str]]:
    """Start the platform with the handlers in `examples`.

    Yields:
        The address of the gateway, and the URL of the dashboard.

    Raises:
        PlatformFailedError: the platform did not start.
    """
    examples = str(Path(__file__).resolve().parent.parent)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace_standalone"),
        *(
            "--ephemeral",
            "--workers",
            "2",
            "--gateway-port",
            "0",
            "--web-port",
            "0",
            "--handlers",
            "handlers",
        ),
        stdout=PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, [examples, os.environ.get("PYTHONPATH")])),
            "HEADRACE_FILES_ROOT": str(files.resolve()),
            "HEADRACE_EMAIL_HOST": "127.0.0.1",
            "HEADRACE_EMAIL_PORT": str(smtp_port),
        },
        # Only the demo receives Ctrl-C; it then stops the platform.
        start_new_session=True,
    )
    try:
        yield await _addresses(process)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(_STOP_S):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _addresses(process: Process) -> tuple[str, str]:
    """Return the gateway's address and the dashboard's URL after the platform has printed them."""
    assert process.stdout is not None
    printed = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            while line := await process.stdout.readline():
                printed += line.decode()
                gateway = re.search(r"API +(\S+:\d+)", printed)
                dashboard = re.search(r"Web +(https?://\S+)", printed)
                if gateway and dashboard:
                    return gateway[1], dashboard[1]
    raise PlatformFailedError("The platform did not start; see above.")
