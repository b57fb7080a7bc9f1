"""The database's migration, as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from headrace_standalone.log_file import LogFile
from headrace_standalone.program import leashed
from headrace_standalone.supervised import ProgramFailedError

_TIMEOUT = 300.0


async def migrate(*, environment: Mapping[str, str], log: LogFile) -> None:
    """Brings the database to the schema of this version.

    Args:
        environment: says which database.
        log: takes what is printed.

    Raises:
        ProgramFailedError: it failed, or took more than five minutes.
    """
    process = await asyncio.create_subprocess_exec(
        *leashed((sys.executable, "-m", "headrace_core", "migrate"), death_signal=signal.SIGKILL),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise ProgramFailedError(
            name="migrate", reason=f"took more than {_TIMEOUT:g} s", tail=log.tail()
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    log.write(printed)
    if process.returncode != 0:
        raise ProgramFailedError(
            name="migrate", reason=f"ended with exit code {process.returncode}", tail=log.tail()
        )
